/* Calls of a `BatchManager` that are usual: compiled code of `kvgpu/batch/rows/usual_rows.py` serves them. */

#include "calls.h"

/* Items of `UsualRows.prepared`. */
enum { TURN, ARENA, ROW_BLOCKS, STORE_OF_ROWS, STEPS, HANDLE, APPEND, COVER, NUM_PREPARED };

/* Arguments of `cover_rows`. */
enum { USUAL, ROWS, NUM_NEW_TOKENS, NUM_LOOKAHEAD, RESERVED_BLOCKS, DELAYS, MUST_FIT, STOPS, NUM_ARGUMENTS };

static PyObject *item(PyObject *usual, int place) { return PyTuple_GET_ITEM(usual, place); }

/* Whether an int of 64 bits could be read. */
static int64_t address_in(PyObject *usual, int place) { return PyLong_AsLongLong(item(usual, place)); }

static int64_t length_of(PyObject *array) { return PyArray_SIZE((PyArrayObject *)array); }

/* Run nothing of Python's between the last look at what is usual and the change. */
PyObject *append_tokens(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count != 3 || !PyTuple_CheckExact(arguments[0]) || PyTuple_GET_SIZE(arguments[0]) != NUM_PREPARED) {
        PyErr_SetString(PyExc_TypeError, "what is prepared, rows and tokens are expected");
        return NULL;
    }
    PyObject *usual = arguments[0];
    int64_t *rows = ints_in(arguments[1]), *tokens = ints_in(arguments[2]), done = 0;
    if (rows == NULL || tokens == NULL || length_of(arguments[1]) != length_of(arguments[2]))
        Py_RETURN_FALSE;
    PyObject *copy = PyObject_GetAttr(item(usual, ARENA), name_copy);
    Py_XDECREF(copy);
    int status = copy == NULL ? -1 : copy == Py_None ? is_nobody_inside(item(usual, TURN)) : 0;
    if (status != 1)
        return status < 0 ? NULL : Py_NewRef(Py_False);
    void *error = NULL;
    if (((CodeOfFour)(intptr_t)address_in(usual, APPEND))(&done, &error, address_in(usual, HANDLE), (intptr_t)rows,
                                                          (intptr_t)tokens, length_of(arguments[1])))
        return PyErr_NoMemory();
    return PyBool_FromLong(done != 0);
}

/* Whether no row has lost its blocks to single calls since the last step looked: 1, 0, or -1 with an exception. */
static int trusts(PyObject *usual) {
    int64_t now, known;
    int status = read_int(item(usual, STORE_OF_ROWS), name_num_closed, &now);
    if (status == 1)
        status = read_int(item(usual, STEPS), name_num_closed, &known);
    return status == 1 ? now == known : status;
}

/* An array of one dimension, filled with one number. */
static PyObject *filled(int64_t length, int type, int64_t number) {
    npy_intp size = length;
    PyObject *array = PyArray_SimpleNew(1, &size, type);
    for (int64_t i = 0; array != NULL && i < length; i++)
        if (type == NPY_BOOL)
            ((npy_bool *)PyArray_DATA((PyArrayObject *)array))[i] = (npy_bool)number;
        else
            ((int64_t *)PyArray_DATA((PyArrayObject *)array))[i] = number;
    return array;
}

/* Arguments of `cover_rows`, as numbers. */
typedef struct {
    int64_t *rows;
    int64_t length, num_new, num_lookahead;
} Step;

/* Whether all rows stay inside their blocks: 1, 0, or -1 with an exception; with `gives` they get their slots if so. */
static int cover(PyObject *usual, const Step *step, int gives) {
    int64_t done = 0;
    void *error = NULL;
    int status = is_nobody_inside(item(usual, TURN));
    if (status == 1)
        status = trusts(usual);
    if (status != 1)
        return status;
    if (gives && add_to(item(usual, ROW_BLOCKS), name_num_changes, 1) < 0)
        return -1;
    if (((CodeOfSix)(intptr_t)address_in(usual, COVER))(&done, &error, address_in(usual, HANDLE), (intptr_t)step->rows,
                                                        step->length, step->num_new, step->num_lookahead, gives)) {
        PyErr_NoMemory();
        return -1;
    }
    if (gives && !done && add_to(item(usual, ROW_BLOCKS), name_num_changes, -1) < 0)
        return -1;
    return done != 0;
}

PyObject *cover_rows(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count != NUM_ARGUMENTS || !PyTuple_CheckExact(arguments[USUAL])
        || PyTuple_GET_SIZE(arguments[USUAL]) != NUM_PREPARED) {
        PyErr_SetString(PyExc_TypeError, "what is prepared, rows and six arguments are expected");
        return NULL;
    }
    PyObject *usual = arguments[USUAL];
    int64_t reserved;
    Step step = {.rows = ints_in(arguments[ROWS])};
    if (step.rows == NULL || !as_int(arguments[NUM_NEW_TOKENS], &step.num_new)
        || !as_int(arguments[NUM_LOOKAHEAD], &step.num_lookahead) || !as_int(arguments[RESERVED_BLOCKS], &reserved)
        || reserved != 0 || !PyBool_Check(arguments[DELAYS]) || arguments[MUST_FIT] != Py_False
        || !PyBool_Check(arguments[STOPS]))
        Py_RETURN_NONE;
    step.length = length_of(arguments[ROWS]);
    int status = cover(usual, &step, 0);
    if (status != 1)
        return status < 0 ? NULL : Py_NewRef(Py_None);
    /* Everything that takes memory comes before the change. It may also run a finalizer, so all is looked at again. */
    PyObject *answer = Py_BuildValue("(NNNL)", filled(step.length, NPY_BOOL, 1), filled(step.length, NPY_INT64, 0),
                                     filled(step.length, NPY_INT64, step.num_new), (long long)step.length);
    if (answer == NULL)
        return NULL;
    status = cover(usual, &step, 1);
    if (status == 1)
        return answer;
    Py_DECREF(answer);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}
