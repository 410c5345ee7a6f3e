/* Methods of `Calls` that change nothing. */

#include "calls.h"

/* The blocks of a hit per group; `found` is what `write_hits` wrote. */
static PyObject *hits_of(Calls *self, const int32_t *found) {
    int64_t begin = 2 + self->num_queries;
    int hit = 0;
    for (int query = 0; query < self->num_queries; query++)
        hit |= found[2 + query] != 0;
    if (!hit)
        return Py_NewRef(self->empty);
    PyObject *lists = PyTuple_New(self->num_groups);
    if (lists == NULL)
        return NULL;
    /* Lines come query by query, and a query has the same number of blocks in each of its lines. */
    for (int line = 0; line < self->num_groups; line++) {
        int place = 0;
        while (self->groups[place].line != line)
            place++;
        int64_t count = found[2 + self->groups[place].query];
        PyObject *blocks = new_block_list(self, new_ids(found + begin, count));
        if (blocks == NULL) {
            Py_DECREF(lists);
            return NULL;
        }
        PyTuple_SET_ITEM(lists, place, blocks);
        begin += count;
    }
    return new_cache_blocks(self, lists);
}

/* Look up a request; its hits per group, their number of tokens in `num_hits`, and where some groups have cached more in
   `junction`, which is 0 if none has. */
static PyObject *look_up(Calls *self, PyObject *hashes, int64_t num_tokens, PyObject **num_hits, int64_t *junction) {
    int64_t width;
    if (is_quiet(self, &width) != 1 || !width)
        return odd();
    int64_t longest = num_tokens ? num_tokens - 1 : 0, *asked = words_at(self->question, QUESTION);
    int64_t count = (longest + self->reach) / self->hash_block_size;
    asked[LISTED] = (intptr_t)hashes;
    asked[NUM_HASHES] = count < PyList_GET_SIZE(hashes) ? count : PyList_GET_SIZE(hashes);
    asked[KIND] = (intptr_t)&PyBytes_Type;
    asked[WIDTH] = width;
    asked[MAX_LENGTH] = longest;
    int64_t size;
    if (run(&self->match, (intptr_t)self->question, &size) < 0)
        return NULL;
    if (size < 0 || size > self->question[2 * FOUND + 1])
        return odd();
    const int32_t *found = (int32_t *)words_at(self->question, FOUND);
    *num_hits = PyLong_FromLong(found[0]);
    *junction = found[1] > found[0] ? found[1] : 0;
    return *num_hits == NULL ? NULL : hits_of(self, found);
}

/* Look up a request whose attributes have been read, and count the lookup. */
static PyObject *find_read(Calls *self, PyObject *request, PyObject *hashes, PyObject *num_tokens, PyObject *stats) {
    int64_t tokens, preemptions = 0, junction = 0;
    PyObject *num_hits = NULL, *counted = NULL;
    if (!PyList_CheckExact(hashes) || !as_int(num_tokens, &tokens) || tokens < 0 || tokens > MOST_TOKENS || !is_ready(&self->match))
        return odd();
    if (stats != Py_None && read_int(request, name_num_preemptions, &preemptions) != 1)
        return odd();
    PyObject *blocks;
    UNDISTURBED(blocks, look_up(self, hashes, tokens, &num_hits, &junction));
    if (num_hits == NULL || blocks == NULL) {
        Py_XDECREF(num_hits);
        return blocks;
    }
    PyObject *again = preemptions > 0 ? Py_True : Py_False, *answer = NULL;
    if (stats != Py_None)
        counted = PyObject_CallMethodObjArgs(stats, name_add, num_tokens, num_hits, again, NULL);
    if (self->reports)
        answer = Py_BuildValue("(OOL)", blocks, num_hits, (long long)junction);
    else if (stats == Py_None || counted != NULL)
        answer = PyTuple_Pack(2, blocks, num_hits);
    Py_XDECREF(counted);
    Py_DECREF(blocks);
    Py_DECREF(num_hits);
    return answer;
}

/* `KVCacheManager.get_computed_blocks`. */
PyObject *get_computed_blocks(Calls *self, PyObject *request) {
    PyObject *skips = PyObject_GetAttr(request, name_skip_reading_prefix_cache), *answer;
    PyObject *hashes = NULL, *num_tokens = NULL, *stats = NULL;
    if (skips == Py_False && (hashes = PyObject_GetAttr(request, name_block_hashes)) != NULL
        && (num_tokens = PyObject_GetAttr(request, name_num_tokens)) != NULL
        && (stats = self->reports ? Py_NewRef(Py_None) : PyObject_GetAttr(self->lookups, name_stats)) != NULL)
        answer = find_read(self, request, hashes, num_tokens, stats);
    else
        answer = odd();
    Py_XDECREF(skips);
    Py_XDECREF(hashes);
    Py_XDECREF(num_tokens);
    Py_XDECREF(stats);
    return answer;
}

static PyObject *list_of(const int32_t *ids, int64_t count) {
    PyObject *listed = PyList_New(count);
    for (int64_t i = 0; listed != NULL && i < count; i++) {
        PyObject *id = PyLong_FromLong(ids[i]);
        if (id == NULL)
            Py_CLEAR(listed);
        else
            PyList_SET_ITEM(listed, i, id);
    }
    return listed;
}

/* The data of an array of so many dimensions and of a type, as compiled code takes it; NULL if it is another object. */
static void *data_of(PyObject *array, int dimensions, int type) {
    if (array == NULL || !PyArray_CheckExact(array) || PyArray_NDIM((PyArrayObject *)array) != dimensions
        || PyArray_TYPE((PyArrayObject *)array) != type || !PyArray_ISCARRAY_RO((PyArrayObject *)array))
        return NULL;
    return PyArray_DATA((PyArrayObject *)array);
}

/* The ids of a block table of a store; NULL, with or without an exception, if Python must say what they are. */
static PyObject *ids_of_table(PyObject *store, int64_t table_id) {
    PyObject *tables = PyObject_GetAttr(store, name_tables), *ids = NULL, *listed = NULL;
    const int64_t *table = data_of(tables, 2, NPY_INT64);
    if (table != NULL && table_id < PyArray_DIM((PyArrayObject *)tables, 0)
        && PyArray_DIM((PyArrayObject *)tables, 1) == TABLE_WORDS) {
        table += TABLE_WORDS * table_id;
        ids = PyObject_GetAttr(store, name_ids);
        const int32_t *all = data_of(ids, 1, NPY_INT32);
        if (all != NULL && table[BEGIN] >= 0 && table[LENGTH] >= 0
            && table[BEGIN] + table[LENGTH] <= PyArray_SIZE((PyArrayObject *)ids))
            listed = list_of(all + table[BEGIN], table[LENGTH]);
    }
    Py_XDECREF(tables);
    Py_XDECREF(ids);
    return listed;
}

/* The same of a list of blocks. */
static PyObject *ids_of(PyObject *blocks) {
    int64_t table_id = -1;
    if (PyTuple_CheckExact(blocks) && PyTuple_GET_SIZE(blocks) == 0)
        return PyList_New(0);
    if (!Py_IS_TYPE(blocks, block_list_type)
        && (!Py_IS_TYPE(blocks, request_blocks_type) || read_int(blocks, name_table_id, &table_id) != 1))
        return NULL;
    PyObject *state = PyObject_GetAttr(blocks, name_state);
    PyObject *foreign = state == NULL ? NULL : PyObject_GetAttr(state, name_foreign), *from = NULL, *listed = NULL;
    if (foreign != NULL && PyList_CheckExact(foreign) && PyList_GET_SIZE(foreign) == 0
        && (from = PyObject_GetAttr(blocks, table_id < 0 ? name__ids : name__store)) != NULL) {
        const int32_t *ids = table_id < 0 ? data_of(from, 1, NPY_INT32) : NULL;
        if (table_id >= 0)
            listed = ids_of_table(from, table_id);
        else if (ids != NULL)
            listed = list_of(ids, PyArray_SIZE((PyArrayObject *)from));
    }
    Py_XDECREF(state);
    Py_XDECREF(foreign);
    Py_XDECREF(from);
    return listed;
}

static PyObject *all_ids_of(PyObject *blocks) {
    PyObject *lists = PyTuple_New(PyTuple_GET_SIZE(blocks));
    for (Py_ssize_t place = 0; lists != NULL && place < PyTuple_GET_SIZE(blocks); place++) {
        PyObject *listed = ids_of(PyTuple_GET_ITEM(blocks, place));
        if (listed == NULL) {
            Py_DECREF(lists);
            return odd();
        }
        PyTuple_SET_ITEM(lists, place, listed);
    }
    return lists;
}

/* `KVCacheBlocks.get_block_ids`, of its tuple of lists. */
PyObject *block_ids(PyObject *module, PyObject *blocks) {
    (void)module;
    if (!PyTuple_CheckExact(blocks) || block_list_type == NULL)
        return odd();
    PyObject *lists;
    UNDISTURBED(lists, all_ids_of(blocks));
    return lists;
}

static PyObject *lists_of(Calls *self, PyObject *request_id) {
    int64_t width;
    if (is_usual(self, &width) != 1)
        return odd();
    PyObject *lists = PyTuple_New(self->num_groups);
    for (int place = 0; lists != NULL && place < self->num_groups; place++) {
        int64_t table_id = table_id_of(self, place, request_id);
        if (table_id < 0) {
            Py_DECREF(lists);
            return odd();
        }
        const int64_t *table = table_at(self, table_id);
        const int32_t *ids = (int32_t *)words_at(words_at(self->slots, STORE), IDS) + table[BEGIN];
        PyObject *listed = list_of(ids, table[LENGTH]);
        if (listed == NULL)
            Py_CLEAR(lists);
        else
            PyTuple_SET_ITEM(lists, place, listed);
    }
    return lists;
}

/* `KVCacheManager.get_block_ids` of a request that holds blocks in all groups. */
PyObject *get_block_ids(Calls *self, PyObject *request_id) {
    if (!PyUnicode_CheckExact(request_id))
        return odd();
    PyObject *lists;
    UNDISTURBED(lists, lists_of(self, request_id));
    return lists;
}

static PyObject *shared_of(Calls *self, PyObject *request_id) {
    int64_t width;
    if (is_usual(self, &width) != 1)
        return odd();
    PyObject *counts = PyList_New(self->num_groups);
    for (int place = 0; counts != NULL && place < self->num_groups; place++) {
        int64_t count = 0, table_id = self->groups[place].shares ? table_id_of(self, place, request_id) : -1;
        void *error;
        if (table_id >= 0
            && ((CodeOfFour)(intptr_t)self->shared.address)(&count, &error, self->slots[2 * POOL], self->slots[2 * STORE],
                                                            table_id, PyDict_GET_SIZE(self->groups[place].tables)))
            PyErr_NoMemory();
        PyObject *number = PyErr_Occurred() ? NULL : PyLong_FromLongLong(count);
        if (number == NULL)
            Py_CLEAR(counts);
        else
            PyList_SET_ITEM(counts, place, number);
    }
    return counts;
}

/* `KVCacheManager.get_num_common_prefix_blocks`. */
PyObject *get_num_common_prefix_blocks(Calls *self, PyObject *request_id) {
    if (!PyUnicode_CheckExact(request_id) || !is_ready(&self->shared))
        return odd();
    PyObject *counts;
    UNDISTURBED(counts, shared_of(self, request_id));
    return counts;
}
