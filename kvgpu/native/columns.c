/* One attribute of many objects. */

#include "calls.h"

/* Whether the arguments begin with a list and the name of an attribute. */
static int are_objects(PyObject *const *arguments, Py_ssize_t count) {
    if (count == 3 && PyList_CheckExact(arguments[0]) && PyUnicode_CheckExact(arguments[1]))
        return 1;
    PyErr_SetString(PyExc_TypeError, "a list of objects, the name of an attribute and a third argument are expected");
    return 0;
}

/* Write an int attribute of each object of a list into an int64 array that is long enough. */
PyObject *read_ints(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (!are_objects(arguments, count))
        return NULL;
    PyObject *objects = arguments[0];
    PyArrayObject *out = (PyArrayObject *)arguments[2];
    if (!PyArray_CheckExact(arguments[2]) || PyArray_NDIM(out) != 1 || PyArray_TYPE(out) != NPY_INT64
        || !PyArray_ISCARRAY(out)) {
        PyErr_SetString(PyExc_TypeError, "an int64 array is expected");
        return NULL;
    }
    /* An attribute may be a property, which can change the list. */
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(objects) && i < PyArray_SIZE(out); i++) {
        PyObject *object = Py_NewRef(PyList_GET_ITEM(objects, i));
        int status = read_int(object, arguments[1], (int64_t *)PyArray_DATA(out) + i);
        Py_DECREF(object);
        if (status == 0)
            PyErr_SetString(PyExc_TypeError, "an attribute is not an int of 64 bits");
        if (status != 1)
            return NULL;
    }
    Py_RETURN_NONE;
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
        int status = add_to(object, arguments[1], step);
        Py_DECREF(object);
        if (status < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}
