/* What the methods of `Calls` have in common: attributes, whether a call is a usual one, and the objects returned. */

#include "calls.h"

#define DEFINE(name) PyObject *name_##name;
NAMES(DEFINE)
PyTypeObject *block_list_type, *request_blocks_type;

/* Read an attribute that is an int: 1; 0 if it is not; -1 with an exception. */
int read_int(PyObject *from, PyObject *name, int64_t *number) {
    PyObject *value = PyObject_GetAttr(from, name);
    if (value == NULL)
        return -1;
    int is_int = as_int(value, number);
    Py_DECREF(value);
    return is_int;
}

int add_to(PyObject *to, PyObject *name, int64_t more) {
    PyObject *before = PyObject_GetAttr(to, name), *step = PyLong_FromLongLong(more), *after = NULL;
    if (before != NULL && step != NULL)
        after = PyNumber_Add(before, step);
    int status = after == NULL ? -1 : PyObject_SetAttr(to, name, after);
    Py_XDECREF(before);
    Py_XDECREF(step);
    Py_XDECREF(after);
    return status;
}

static int is_false(PyObject *from, PyObject *name) {
    PyObject *value = PyObject_GetAttr(from, name);
    Py_XDECREF(value);
    return value == NULL ? -1 : value == Py_False;
}

/* Whether no thread is inside the manager, and no call has left a change half made: 1, 0, or -1 with an exception. */
int is_nobody_inside(PyObject *turn) {
    PyObject *holders = PyObject_GetAttr(turn, name_holders);
    if (holders == NULL)
        return -1;
    int free = PyDict_CheckExact(holders) && PyDict_GET_SIZE(holders) == 0;
    Py_DECREF(holders);
    return free ? is_false(turn, name_torn) : 0;
}

/* Whether all cached blocks lie in arrays, and nobody is inside: 1, 0, or -1 with an exception.

   From here on, a call runs no code of Python's until it is done, so no other thread and no signal can come in between;
   its caller has stopped the collector, which may run finalizers. */
int is_quiet(Calls *self, int64_t *width) {
    int64_t null_id = 0;
    if (PyDict_GET_SIZE(self->extras) || PyList_GET_SIZE(self->foreign))
        return 0;
    int status = is_nobody_inside(self->turn);
    if (status == 1)
        status = read_int(self->state, name_null_id, &null_id);
    if (status != 1)
        return status;
    words_at(self->slots, POOL)[NULL_ID] = null_id;
    *width = 0; /* None until the first block is cached */
    return read_int(self->state, name_width, width) < 0 ? -1 : 1;
}

/* The same, and whether block tables lie in arrays and changes tell nobody. */
int is_usual(Calls *self, int64_t *width) {
    int64_t mirrors = 0;
    int status = is_false(self->events, name_enabled);
    /* Ids that are no strings or ints may compare themselves with those in the tables by any code. */
    if (status == 1)
        status = is_false(self->store, name_has_odd_names);
    if (status == 1)
        status = read_int(self->store, name_mirrors, &mirrors);
    if (status != 1 || mirrors)
        return status < 0 ? -1 : 0;
    return is_quiet(self, width);
}

/* Whether compiled code can be called: 1, or 0 with an exception. */
int is_ready(Entry *entry) {
    if (entry->address)
        return 1;
    PyObject *made = PyObject_CallNoArgs(entry->make);
    if (made == NULL)
        return 0;
    entry->address = PyLong_AsLongLong(made);
    Py_DECREF(made);
    return !PyErr_Occurred();
}

/* The block table of a request in a group; -1 if it has none. */
int64_t table_id_of(const Calls *self, int place, PyObject *request_id) {
    PyObject *held = PyDict_GetItemWithError(self->groups[place].tables, request_id);
    int64_t table_id = -1;
    if (held == NULL
        || (!as_int(held, &table_id)
            && (!Py_IS_TYPE(held, self->request_blocks) || read_int(held, name_table_id, &table_id) != 1)))
        return -1;
    return table_id < words_at(self->slots, STORE)[2 * TABLES + 1] ? table_id : -1;
}

/* Run compiled code; -1 with an exception if it has raised. */
int run(const Entry *entry, int64_t handle, int64_t *result) {
    void *error = NULL;
    if (((Code)(intptr_t)entry->address)(result, &error, handle) == 0)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* Note that a change is half made, so that the next call restores the state; returns NULL. Takes no memory. */
PyObject *torn(Calls *self) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    /* What an earlier call has handed out stays with its caller. */
    *self->last_hand_out = 0;
    if (PyObject_SetAttr(self->turn, name_torn, Py_True) < 0)
        PyErr_Clear();
    PyErr_Restore(type, value, trace);
    return NULL;
}

/* What a method returns, with nothing changed, if Python has to serve the call, and says what is wrong with it. */
PyObject *odd(void) {
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError) && !PyErr_ExceptionMatches(PyExc_TypeError)
            && !PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_OverflowError))
            return NULL; /* an interrupt, or no memory */
        PyErr_Clear();
    }
    Py_RETURN_NOTIMPLEMENTED;
}

PyObject *new_ids(const int32_t *ids, int64_t count) {
    npy_intp length = count;
    PyObject *array = PyArray_SimpleNew(1, &length, NPY_INT32);
    if (array != NULL)
        memcpy(PyArray_DATA((PyArrayObject *)array), ids, sizeof(int32_t) * count);
    return array;
}

static PyObject *new_object(PyTypeObject *type) {
    PyObject *nothing = PyTuple_New(0);
    if (nothing == NULL)
        return NULL;
    PyObject *made = type->tp_new(type, nothing, NULL);
    Py_DECREF(nothing);
    return made;
}

/* A `BlockList` of ids, whose reference is taken over; NULL if they are NULL. */
PyObject *new_block_list(Calls *self, PyObject *ids) {
    PyObject *made = ids == NULL ? NULL : new_object(self->block_list);
    if (made != NULL
        && (PyObject_SetAttr(made, name_state, self->state) < 0 || PyObject_SetAttr(made, name__ids, ids) < 0))
        Py_CLEAR(made);
    Py_XDECREF(ids);
    return made;
}

/* `KVCacheBlocks` of a tuple, whose reference is taken over. */
PyObject *new_cache_blocks(Calls *self, PyObject *lists) {
    PyObject *made = new_object(self->cache_blocks);
    if (made != NULL && PyObject_SetAttr(made, name_blocks, lists) < 0)
        Py_CLEAR(made);
    Py_DECREF(lists);
    return made;
}
