/* One attribute of many objects. */

#include "calls.h"

/* Whether the arguments begin with a list and the name of an attribute. */
static int are_objects(PyObject *const *arguments, Py_ssize_t count) {
    if (count == 3 && PyList_CheckExact(arguments[0]) && PyUnicode_CheckExact(arguments[1]))
        return 1;
    PyErr_SetString(PyExc_TypeError, "a list of objects, the name of an attribute and a third argument are expected");
    return 0;
}

/* The items of an int64 array of one dimension; NULL without an exception if it is another object. */
int64_t *ints_in(PyObject *array) {
    PyArrayObject *out = (PyArrayObject *)array;
    if (!PyArray_CheckExact(array) || PyArray_NDIM(out) != 1 || PyArray_TYPE(out) != NPY_INT64 || !PyArray_ISCARRAY(out))
        return NULL;
    return PyArray_DATA(out);
}

/* Write an int attribute of each object of a list into an int64 array that is long enough. */
PyObject *read_ints(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (!are_objects(arguments, count))
        return NULL;
    PyObject *objects = arguments[0];
    int64_t *out = ints_in(arguments[2]);
    if (out == NULL) {
        PyErr_SetString(PyExc_TypeError, "an int64 array is expected");
        return NULL;
    }
    /* An attribute may be a property, which can change the list. */
    Py_ssize_t room = PyArray_SIZE((PyArrayObject *)arguments[2]);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(objects) && i < room; i++) {
        PyObject *object = Py_NewRef(PyList_GET_ITEM(objects, i));
        int status = read_int(object, arguments[1], out + i);
        Py_DECREF(object);
        if (status == 0)
            PyErr_SetString(PyExc_TypeError, "an attribute is not an int of 64 bits");
        if (status != 1)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* Write the length of each list of a list into an int64 array that is long enough. */
PyObject *read_lengths(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t *out = count == 2 && PyList_CheckExact(arguments[0]) ? ints_in(arguments[1]) : NULL;
    if (out == NULL) {
        PyErr_SetString(PyExc_TypeError, "a list of lists and an int64 array are expected");
        return NULL;
    }
    Py_ssize_t room = PyArray_SIZE((PyArrayObject *)arguments[1]);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(arguments[0]) && i < room; i++) {
        PyObject *listed = PyList_GET_ITEM(arguments[0], i);
        if (!PyList_CheckExact(listed)) {
            PyErr_SetString(PyExc_TypeError, "an item is not a list");
            return NULL;
        }
        out[i] = PyList_GET_SIZE(listed);
    }
    Py_RETURN_NONE;
}

/* Count an int attribute of one object up; -1 with an exception. */
static int count_up(PyObject *object, PyObject *name, int64_t step) {
    PyObject *before = PyObject_GetAttr(object, name), *after;
    int64_t number, sum;
    if (before == NULL)
        return -1;
    int is_short = as_int(before, &number) && !__builtin_add_overflow(number, step, &sum);
    Py_DECREF(before);
    if (!is_short)
        return add_to(object, name, step);
    after = PyLong_FromLongLong(sum);
    int status = after == NULL ? -1 : PyObject_SetAttr(object, name, after);
    Py_XDECREF(after);
    return status;
}

/* Add a number to an int attribute of each object of a list. */
PyObject *add_to_ints(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    int64_t step;
    (void)module;
    if (!are_objects(arguments, count))
        return NULL;
    if (!as_int(arguments[2], &step)) {
        PyErr_SetString(PyExc_TypeError, "an int is expected");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(arguments[0]); i++) {
        PyObject *object = Py_NewRef(PyList_GET_ITEM(arguments[0], i));
        int status = count_up(object, arguments[1], step);
        Py_DECREF(object);
        if (status < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}
