/* The block tables of a request: opened, closed and detached. */

#include "calls.h"

/* Give a request an empty block table in a group; its id, or -1 with an exception, half done. */
static int64_t open_table(Calls *self, int place, PyObject *request_id, PyObject *idle) {
    Py_ssize_t last = PyList_GET_SIZE(idle) - 1;
    int64_t table_id, serial;
    if (last < 0 || !as_int(PyList_GET_ITEM(idle, last), &table_id) || add_to(self->store, name__serial, 1) < 0
        || read_int(self->store, name__serial, &serial) != 1 || PyList_SetSlice(idle, last, last + 1, NULL) < 0)
        return -1;
    int64_t *table = table_at(self, table_id);
    table[NUM_CACHED] = -1;
    table[SERIAL] = serial;
    PyObject *number = PyLong_FromLongLong(table_id), *zero = PyLong_FromLong(0), *nothing = PyTuple_New(0);
    PyObject *made = nothing == NULL ? NULL : self->request_blocks->tp_new(self->request_blocks, nothing, NULL);
    int failed = made == NULL || number == NULL || zero == NULL || PyObject_SetAttr(made, name_state, self->state) < 0
                 || PyObject_SetAttr(made, name__ids, self->no_ids) < 0
                 || PyObject_SetAttr(made, name__store, self->store) < 0
                 || PyObject_SetAttr(made, name__mirror, Py_None) < 0
                 || PyObject_SetAttr(made, name_table_id, number) < 0
                 || PyObject_SetAttr(made, name_covered_until, zero) < 0
                 || PyDict_SetItem(self->groups[place].tables, request_id, made) < 0;
    Py_XDECREF(number);
    Py_XDECREF(zero);
    Py_XDECREF(nothing);
    Py_XDECREF(made);
    return failed ? -1 : table_id;
}

/* Take note of block tables that were closed; -1 with an exception, half done. */
int note_closed(Calls *self, const int64_t *table_ids, int count) {
    PyObject *idle = PyObject_GetAttr(self->store, name__idle);
    int status = idle == NULL ? -1 : 0;
    for (int i = 0; status == 0 && i < count; i++) {
        PyObject *number = PyLong_FromLongLong(table_ids[i]);
        status = number == NULL ? -1 : PyList_Append(idle, number);
        Py_XDECREF(number);
    }
    Py_XDECREF(idle);
    return status < 0 ? -1 : add_to(self->store, name_num_closed, count);
}

/* Find or open the block tables of a request: 1; 0 with nothing changed if Python must; -1 half done. */
int ready_tables(Calls *self, PyObject *request_id, int *is_new) {
    int64_t *table_ids = words_at(self->slots, TABLE_IDS);
    int missing = 0;
    for (int place = 0; place < self->num_groups; place++) {
        PyObject *held = PyDict_GetItemWithError(self->groups[place].tables, request_id);
        if (held == NULL ? PyErr_Occurred() != NULL : !Py_IS_TYPE(held, self->request_blocks))
            return 0;
        missing += held == NULL;
        if (held != NULL && read_int(held, name_table_id, table_ids + place) != 1)
            return 0;
    }
    *is_new = missing > 0;
    if (!missing)
        return 1;
    PyObject *idle = PyObject_GetAttr(self->store, name__idle);
    int status = idle != NULL && missing == self->num_groups && PyList_GET_SIZE(idle) >= missing;
    for (int place = 0; status == 1 && place < self->num_groups; place++) {
        table_ids[place] = open_table(self, place, request_id, idle);
        if (table_ids[place] < 0)
            status = -1;
    }
    Py_XDECREF(idle);
    return status;
}

/* Close the block tables of a request that got nothing; -1 with an exception, half done. */
int close_tables(Calls *self, PyObject *request_id) {
    const int64_t *table_ids = words_at(self->slots, TABLE_IDS);
    for (int place = 0; place < self->num_groups; place++) {
        if (table_at(self, table_ids[place])[LIMIT]) {
            PyErr_SetString(PyExc_SystemError, "a request that got nothing has room for blocks");
            return -1;
        }
        memset(table_at(self, table_ids[place]), 0, sizeof(int64_t) * TABLE_WORDS);
        if (PyDict_DelItem(self->groups[place].tables, request_id) < 0)
            return -1;
    }
    return note_closed(self, table_ids, self->num_groups);
}

/* Let the blocks of a request go on as a list of their own, for whoever looks at them; -1 with an exception. */
int detach(Calls *self, PyObject *blocks, int64_t table_id) {
    const int64_t *table = table_at(self, table_id);
    const int32_t *ids = (int32_t *)words_at(words_at(self->slots, STORE), IDS) + table[BEGIN];
    PyObject *copy = new_ids(ids, table[LENGTH]);
    if (copy == NULL) { /* who still looks at them sees none; giving them back goes on */
        PyErr_Clear();
        copy = Py_NewRef(self->no_ids);
    }
    PyObject *gone = PyLong_FromLong(-1);
    int failed = gone == NULL || PyObject_SetAttr(blocks, name__ids, copy) < 0
                 || PyObject_SetAttr(blocks, name_table_id, gone) < 0;
    Py_DECREF(copy);
    Py_XDECREF(gone);
    return failed ? -1 : 0;
}
