/* Hashes of the blocks of one request: compiled code of `kvgpu/hashing/one_chain.py` makes them. */

#include "calls.h"

/* What `prepare_chain` returns. */
enum { OWNER, HANDLE_AT, CODE, NUM_PREPARED };

/* Arguments of `hash_blocks`. */
enum { PREPARED, TOKENS_OF, FIRST, COUNT, PARENT, NUM_ARGUMENTS };

static int read_tokens(PyObject *listed, int64_t first, int64_t count, int64_t *out) {
    if (first + count > PyList_GET_SIZE(listed))
        return 0;
    for (int64_t i = 0; i < count; i++)
        if (!as_int(PyList_GET_ITEM(listed, first + i), out + i))
            return 0;
    return 1;
}

/* Hash some blocks, and put their hashes into a list from a place on: 1, 0 if Python must, or -1 with an exception. */
static int hash_piece(PyObject *const *arguments, int64_t *handle, int64_t first, int64_t count, PyObject *made, int64_t place) {
    char *digests = (char *)words_at(handle, CHAIN_DIGESTS);
    int64_t result;
    void *error = NULL;
    int64_t num_tokens = count * handle[CHAIN_SIZE] + handle[CHAIN_LOOKAHEAD];
    if (!read_tokens(arguments[TOKENS_OF], first, num_tokens, words_at(handle, CHAIN_TOKENS)))
        return 0;
    handle[CHAIN_BLOCKS] = count;
    int64_t code = PyLong_AsLongLong(PyTuple_GET_ITEM(arguments[PREPARED], CODE));
    if (((Code)(intptr_t)code)(&result, &error, (intptr_t)handle)) {
        PyErr_NoMemory();
        return -1;
    }
    for (int64_t i = 0; i < count; i++) {
        PyObject *hash = PyBytes_FromStringAndSize(digests + DIGEST_BYTES * (i + 1), DIGEST_BYTES);
        if (hash == NULL)
            return -1;
        PyList_SET_ITEM(made, place + i, hash);
    }
    memmove(digests, digests + DIGEST_BYTES * count, DIGEST_BYTES);
    return 1;
}

PyObject *hash_blocks(PyObject *module, PyObject *const *arguments, Py_ssize_t num_arguments) {
    (void)module;
    int64_t first, count;
    if (num_arguments != NUM_ARGUMENTS || !PyTuple_CheckExact(arguments[PREPARED])
        || PyTuple_GET_SIZE(arguments[PREPARED]) != NUM_PREPARED || !as_int(arguments[FIRST], &first) || first < 0
        || !as_int(arguments[COUNT], &count) || count < 0) {
        PyErr_SetString(PyExc_TypeError, "what is prepared, a list, two numbers and a hash are expected");
        return NULL;
    }
    if (!PyList_CheckExact(arguments[TOKENS_OF]) || !PyBytes_CheckExact(arguments[PARENT])
        || PyBytes_GET_SIZE(arguments[PARENT]) != DIGEST_BYTES || first > PyList_GET_SIZE(arguments[TOKENS_OF])
        || count > PyList_GET_SIZE(arguments[TOKENS_OF]))
        Py_RETURN_NOTIMPLEMENTED;
    int64_t *handle = (int64_t *)(intptr_t)PyLong_AsLongLong(PyTuple_GET_ITEM(arguments[PREPARED], HANDLE_AT));
    PyObject *made = PyList_New(count);
    if (made == NULL)
        return NULL;
    memcpy(words_at(handle, CHAIN_DIGESTS), PyBytes_AS_STRING(arguments[PARENT]), DIGEST_BYTES);
    int64_t piece = (handle[2 * CHAIN_TOKENS + 1] - handle[CHAIN_LOOKAHEAD]) / handle[CHAIN_SIZE];
    for (int64_t done = 0; done < count; done += piece) {
        int64_t some = count - done < piece ? count - done : piece;
        int status = hash_piece(arguments, handle, first + done * handle[CHAIN_SIZE], some, made, done);
        if (status != 1) {
            Py_DECREF(made);
            return status < 0 ? NULL : Py_NewRef(Py_NotImplemented);
        }
    }
    return made;
}
