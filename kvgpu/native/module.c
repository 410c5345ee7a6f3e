/* The extension `kvgpu.native._calls`: the class `Calls`. */

#define KVGPU_NATIVE_MODULE
#include "calls.h"

static int traverse(Calls *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->parts);
    return 0;
}

static void dealloc(Calls *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->parts);
    PyMem_Free(self->groups);
    PyMem_Free(self->ends);
    PyMem_Free(self->hits);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* Read (tables, new ids or None, whether it shares, line, query) of each group. */
static int read_groups(Calls *self, PyObject *groups) {
    self->num_groups = (int)PyTuple_GET_SIZE(groups);
    self->groups = PyMem_Calloc(self->num_groups, sizeof(Group));
    self->ends = PyMem_Calloc(2 * (self->num_groups + 1), sizeof(int64_t));
    self->hits = PyMem_Calloc(self->room_for_hits, sizeof(int32_t));
    if (self->groups == NULL || self->ends == NULL || self->hits == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int place = 0; place < self->num_groups; place++) {
        Group *group = self->groups + place;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(groups, place), "O!Opii", &PyDict_Type, &group->tables, &group->new_ids,
                              &group->shares, &group->line, &group->query))
            return -1;
        if (group->new_ids == Py_None)
            group->new_ids = NULL;
    }
    return 0;
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *options) {
    static char *names[] = {"turn", "state", "extras", "foreign", "events", "store", "index", "allocator", "lookups",
                            "empty", "no_ids", "refuse", "request_blocks", "block_list", "cache_blocks", "allocate", "free",
                            "match", "shared", "slots", "question", "room_for_hits", "max_model_len",
                            "hash_block_size", "reach", "caching", "clamps", "masks", "reports", "num_queries", "groups", "last_hand_out", "owners", NULL};
    long long slots, question, room, longest, size, reach, last_hand_out;
    PyObject *groups, *owners;
    Calls *self = (Calls *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (!PyArg_ParseTupleAndKeywords(
            args, options, "$OOO!O!OOOOOOOOO!O!O!OOOOLLLLLLppppiO!LO", names, &self->turn, &self->state, &PyDict_Type,
            &self->extras, &PyList_Type, &self->foreign, &self->events, &self->store, &self->index, &self->allocator,
            &self->lookups, &self->empty, &self->no_ids, &self->refuse, &PyType_Type, &self->request_blocks, &PyType_Type,
            &self->block_list, &PyType_Type, &self->cache_blocks, &self->allocate.make, &self->free.make,
            &self->match.make, &self->shared.make, &slots, &question, &room, &longest, &size, &reach, &self->caching,
            &self->clamps, &self->masks, &self->reports, &self->num_queries, &PyTuple_Type, &groups, &last_hand_out, &owners)) {
        Py_DECREF(self);
        return NULL;
    }
    /* A tuple, so that nothing is released before this object is. */
    PyObject *values = PyDict_Values(options);
    self->parts = values == NULL ? NULL : PySequence_Tuple(values);
    Py_XDECREF(values);
    if (self->parts == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    Py_XSETREF(block_list_type, (PyTypeObject *)Py_NewRef(self->block_list));
    Py_XSETREF(request_blocks_type, (PyTypeObject *)Py_NewRef(self->request_blocks));
    self->last_hand_out = (int64_t *)(intptr_t)last_hand_out;
    self->slots = (int64_t *)(intptr_t)slots;
    self->question = (int64_t *)(intptr_t)question;
    self->room_for_hits = room;
    self->max_model_len = longest;
    self->hash_block_size = size;
    self->reach = reach;
    if (read_groups(self, groups) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"allocate_slots", (PyCFunction)(void (*)(void))allocate_slots, METH_FASTCALL, NULL},
    {"cache_blocks", (PyCFunction)(void (*)(void))cache_blocks, METH_FASTCALL, NULL},
    {"free", (PyCFunction)free_request, METH_O, NULL},
    {"get_computed_blocks", (PyCFunction)get_computed_blocks, METH_O, NULL},
    {"get_block_ids", (PyCFunction)get_block_ids, METH_O, NULL},
    {"get_num_common_prefix_blocks", (PyCFunction)get_num_common_prefix_blocks, METH_O, NULL},
    {NULL},
};

static PyMethodDef functions[] = {
    {"block_ids", block_ids, METH_O, NULL},
    {"read_ints", (PyCFunction)(void (*)(void))read_ints, METH_FASTCALL, NULL},
    {"read_lengths", (PyCFunction)(void (*)(void))read_lengths, METH_FASTCALL, NULL},
    {"hash_blocks", (PyCFunction)(void (*)(void))hash_blocks, METH_FASTCALL, NULL},
    {"append_tokens", (PyCFunction)(void (*)(void))append_tokens, METH_FASTCALL, NULL},
    {"cover_rows", (PyCFunction)(void (*)(void))cover_rows, METH_FASTCALL, NULL},
    {"add_to_ints", (PyCFunction)(void (*)(void))add_to_ints, METH_FASTCALL, NULL},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, make},         {Py_tp_dealloc, dealloc}, {Py_tp_traverse, traverse},
    {Py_tp_methods, methods},  {0, NULL},
};

static PyType_Spec spec = {
    .name = "kvgpu.native._calls.Calls",
    .basicsize = sizeof(Calls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

static int add_layout(PyObject *module) {
    PyObject *layout = Py_BuildValue(
        "{s(iiiiiiiiii)s(iiii)s(iiiiii)s(ii)s(iiiiiiii)s(i)s(ii)s(iiiii)s(i)s(i)s(n)}", "slots", POOL, STORE, GROUPS, ARGUMENTS,
        TABLE_IDS, STARTS, OUT, HITS, HIT_ENDS, HASHES, "status", FITS, NO_ROOM, REFUSED, SHORT, "answer", KEYS, EVICTED, COVERED_UNTIL,
        NUM_TAKEN, NUM_NEW, PLACES, "store", TABLES, IDS, "table", BEGIN, LENGTH, LIMIT, NUM_CACHED, COVERED, SERIAL,
        JUNCTION, TABLE_WORDS, "pool", NULL_ID, "lookup", QUESTION, FOUND, "question", LISTED, NUM_HASHES, KIND, WIDTH, MAX_LENGTH,
        "parts", MOST_PARTS, "most", MOST_TOKENS, "arguments", (Py_ssize_t)sizeof(Arguments));
    if (PyModule_AddObject(module, "LAYOUT", layout) < 0)
        return -1;
    PyObject *chain = Py_BuildValue(
        "(iiiiii)", CHAIN_TOKENS, CHAIN_DIGESTS, CHAIN_SIZE, CHAIN_BLOCKS, CHAIN_LOOKAHEAD, DIGEST_BYTES);
    return PyModule_AddObject(module, "CHAIN_LAYOUT", chain);
}

static int start(PyObject *module) {
    import_array1(-1);
#define INTERN(name)                                                                                                  \
    if (name_##name == NULL && (name_##name = PyUnicode_InternFromString(#name)) == NULL)                             \
        return -1;
    NAMES(INTERN)
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddObject(module, "Calls", type) < 0)
        return -1;
    return add_layout(module);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, start}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_calls", .m_size = 0, .m_methods = functions, .m_slots = module_slots};

PyMODINIT_FUNC PyInit__calls(void) { return PyModuleDef_Init(&definition); }
