/* Methods of `Calls` that give blocks and take them back. */

#include "calls.h"

/* The fields of a `SlotsCall`, in order. */
enum {
    NEW_TOKENS, HIT_TOKENS, COMPUTED, LOOKAHEAD, EXTERNAL, DELAYS, ENCODER, MUST_FIT, RESERVED, IN_FLIGHT, HEADROOM, UNZEROED,
    NUM_ARGUMENTS
};

/* What was read of a call: no code of Python's runs after that. */
typedef struct {
    PyObject *request_id, *hashes;
    PyObject *computed; /* KVCacheBlocks, or NULL */
    int64_t num_new, num_hit_tokens, num_lookahead, num_external, num_encoder, reserved_blocks;
    int64_t num_in_flight, headroom;
    int64_t num_computed, num_tokens, num_prompt, junction;
    int delays, must_fit;
} Call;

static int as_switch(PyObject *value, int *flag) {
    *flag = value == Py_True;
    return value == Py_True || value == Py_False;
}

static int read_arguments(Calls *self, PyObject *fields, Call *call) {
    PyObject *const *given = &PyTuple_GET_ITEM(fields, 0), *computed = given[COMPUTED];
    call->computed = computed == Py_None || computed == self->empty ? NULL : computed;
    return as_int(given[NEW_TOKENS], &call->num_new) && as_int(given[HIT_TOKENS], &call->num_hit_tokens)
           && as_int(given[LOOKAHEAD], &call->num_lookahead) && as_int(given[EXTERNAL], &call->num_external)
           && as_int(given[ENCODER], &call->num_encoder) && as_int(given[RESERVED], &call->reserved_blocks)
           && as_int(given[IN_FLIGHT], &call->num_in_flight) && as_int(given[HEADROOM], &call->headroom)
           && PyTuple_CheckExact(given[UNZEROED]) && PyTuple_GET_SIZE(given[UNZEROED]) == 0
           && as_switch(given[DELAYS], &call->delays) && as_switch(given[MUST_FIT], &call->must_fit);
}

/* Whether the request stays inside its blocks, and needs nothing: 1, 0, or -1 with an exception. */
static int is_covered(Calls *self, const Call *call) {
    int64_t until;
    if (call->computed != NULL || call->num_new <= 0 || call->num_hit_tokens || call->num_external || call->must_fit
        || call->reserved_blocks || call->headroom || call->num_computed < 0 || call->num_lookahead < 0)
        return 0;
    PyObject *blocks = PyDict_GetItemWithError(self->groups[0].tables, call->request_id);
    if (blocks == NULL || !Py_IS_TYPE(blocks, self->request_blocks))
        return PyErr_Occurred() ? -1 : 0;
    int status = read_int(blocks, name_covered_until, &until);
    /* In this order nothing overflows. */
    return status != 1 ? status
                       : call->num_computed <= until && call->num_new <= until - call->num_computed
                             && call->num_lookahead <= until - call->num_computed - call->num_new;
}

/* `KVCacheManager.cache_blocks` where no block has become full: an asynchronous scheduler asks in every step. */
PyObject *cache_blocks(Calls *self, PyObject *const *arguments, Py_ssize_t count) {
    int64_t num_computed, until;
    if (count != 2 || !as_int(arguments[1], &num_computed) || num_computed < 0)
        return odd();
    PyObject *request_id = PyObject_GetAttr(arguments[0], name_request_id);
    PyObject *blocks = request_id != NULL && PyUnicode_CheckExact(request_id)
                           ? PyDict_GetItemWithError(self->groups[0].tables, request_id)
                           : NULL;
    int is_covered = blocks != NULL && Py_IS_TYPE(blocks, self->request_blocks)
                     && read_int(blocks, name_covered_until, &until) == 1 && num_computed <= until;
    Py_XDECREF(request_id);
    return is_covered ? Py_NewRef(Py_None) : odd();
}

/* Point compiled code to the hits of a call; 0 if they are not all lists of this pool. */
static int place_hits(Calls *self, const Call *call) {
    int64_t *ends = self->ends, total = 0;
    const int32_t *hits = NULL;
    PyObject *blocks = NULL, *all = NULL;
    int usual = 1;
    if (call->computed != NULL) {
        usual = Py_IS_TYPE(call->computed, self->cache_blocks)
                && (all = PyObject_GetAttr(call->computed, name_blocks)) != NULL && PyTuple_CheckExact(all)
                && PyTuple_GET_SIZE(all) == self->num_groups;
        for (int place = 0; usual && place < self->num_groups; place++) {
            PyObject *state = NULL, *ids = NULL;
            blocks = PyTuple_GET_ITEM(all, place);
            usual = Py_IS_TYPE(blocks, self->block_list) && (state = PyObject_GetAttr(blocks, name_state)) == self->state
                    && (ids = PyObject_GetAttr(blocks, name__ids)) != NULL && PyArray_CheckExact(ids)
                    && PyArray_NDIM((PyArrayObject *)ids) == 1 && PyArray_TYPE((PyArrayObject *)ids) == NPY_INT32
                    && PyArray_ISCARRAY((PyArrayObject *)ids);
            int64_t count = usual ? PyArray_SIZE((PyArrayObject *)ids) : 0;
            if (usual && self->num_groups == 1)
                hits = PyArray_DATA((PyArrayObject *)ids); /* the list keeps it alive */
            else if (usual && (usual = total + count <= self->room_for_hits)) {
                memcpy(self->hits + total, PyArray_DATA((PyArrayObject *)ids), sizeof(int32_t) * count);
                hits = self->hits;
            }
            ends[place + 1] = total += count;
            Py_XDECREF(state);
            Py_XDECREF(ids);
        }
        Py_XDECREF(all);
    }
    int64_t *zeros = ends + self->num_groups + 1;
    self->slots[2 * HITS] = (intptr_t)hits;
    self->slots[2 * HITS + 1] = total;
    self->slots[2 * HIT_ENDS] = (intptr_t)(total ? ends : zeros);
    return usual;
}

static void pack(Calls *self, const Call *call, int64_t width) {
    Arguments *packed = (Arguments *)words_at(self->slots, ARGUMENTS);
    int caches = self->caching && !call->delays;
    int64_t num_hashes = PyList_GET_SIZE(call->hashes);
    *packed = (Arguments){
        .num_computed = call->num_computed,
        .num_hit_tokens = call->num_hit_tokens,
        .num_external = call->num_external,
        .num_new = call->num_new,
        .num_lookahead = call->num_lookahead,
        .num_tokens = call->num_tokens,
        .num_prompt = call->num_prompt,
        .junction = call->junction,
        .num_hashed = self->clamps ? num_hashes * self->hash_block_size : MOST_TOKENS,
        .num_in_flight = call->num_in_flight,
        .max_model_len = self->max_model_len,
        .reserved_blocks = call->reserved_blocks,
        .headroom = call->headroom,
        .whole = call->must_fit,
        .takes_hits = call->computed != NULL,
        .caches = caches,
        .caching = self->caching,
        .num_encoder = call->num_encoder,
        .hash_block_size = self->hash_block_size,
        .num_hashes = num_hashes,
        .clamps = self->clamps,
        .listed = caches && num_hashes ? (intptr_t)call->hashes : 0,
        .bytes_type = (intptr_t)&PyBytes_Type,
        .hash_width = width,
    };
}

/* Record the ids of blocks that are new to an engine: 1, 0 if Python must, or -1 with an exception. */
static int note_new(const Group *group, PyObject *ids, int64_t count, int only_asks) {
    int64_t known, most;
    if (group->new_ids == NULL)
        return 1;
    if (read_int(group->new_ids, name__count, &known) != 1 || read_int(group->new_ids, name__most, &most) != 1)
        return -1;
    PyObject *parts = PyObject_GetAttr(group->new_ids, name__parts);
    PyObject *whole = PyObject_GetAttr(group->new_ids, name__whole);
    int status = parts == NULL || whole == NULL ? -1 : 1;
    if (status == 1 && known > most)
        status = PyList_GET_SIZE(parts) == 0 && PyList_GET_SIZE(whole) == 0; /* nobody asks for them */
    else if (status == 1 && only_asks)
        status = PyList_GET_SIZE(parts) + 1 < MOST_PARTS;
    else if (status == 1 && (PyList_Append(parts, ids) < 0 || add_to(group->new_ids, name__count, count) < 0))
        status = -1;
    Py_XDECREF(parts);
    Py_XDECREF(whole);
    return status;
}

/* The new blocks of one group, which are noted; `places` are the words of the answer about it. */
static PyObject *given(Calls *self, int place, const int64_t *places) {
    int64_t external = places[0], begin = places[1], end = places[2];
    if (end == external)
        return new_block_list(self, Py_NewRef(self->no_ids));
    const int32_t *ids = (int32_t *)words_at(words_at(self->slots, STORE), IDS);
    PyObject *all = new_ids(ids + external, end - external);
    if (all == NULL || note_new(&self->groups[place], all, end - external, 0) < 0) {
        Py_XDECREF(all);
        return NULL;
    }
    if (begin == external)
        return new_block_list(self, all);
    Py_DECREF(all);
    return new_block_list(self, new_ids(ids + begin, end - begin));
}

/* Account for a call that gave a request what it asked for; NULL with an exception, half done. */
static PyObject *take_over(Calls *self, PyObject *request_id) {
    const int64_t *answer = words_at(self->slots, OUT);
    if ((answer[KEYS] && add_to(self->index, name__num_keys, answer[KEYS]) < 0)
        || (answer[EVICTED] && add_to(self->allocator, name_num_evictions, answer[EVICTED]) < 0))
        return NULL;
    PyObject *blocks = PyDict_GetItemWithError(self->groups[0].tables, request_id);
    PyObject *until = PyLong_FromLongLong(answer[COVERED_UNTIL]);
    int failed = blocks == NULL || until == NULL || PyObject_SetAttr(blocks, name_covered_until, until) < 0;
    Py_XDECREF(until);
    if (failed)
        return NULL;
    if (!answer[NUM_TAKEN])
        return Py_NewRef(self->empty);
    PyObject *lists = PyTuple_New(self->num_groups);
    for (int place = 0; lists != NULL && place < self->num_groups; place++) {
        PyObject *listed = given(self, place, answer + PLACES + 3 * place);
        if (listed == NULL)
            Py_CLEAR(lists);
        else
            PyTuple_SET_ITEM(lists, place, listed);
    }
    if (lists == NULL || answer[NUM_NEW])
        return lists == NULL ? NULL : new_cache_blocks(self, lists);
    Py_DECREF(lists);
    return Py_NewRef(self->empty);
}

static PyObject *serve(Calls *self, const Call *call) {
    int64_t width;
    int is_new = 0;
    if (is_usual(self, &width) != 1 || (self->caching && !width) || !place_hits(self, call))
        return odd();
    for (int place = 0; place < self->num_groups; place++)
        if (note_new(&self->groups[place], NULL, 0, 1) != 1)
            return odd();
    int status = ready_tables(self, call->request_id, &is_new);
    if (status != 1)
        return status < 0 ? torn(self) : odd();
    pack(self, call, width);
    int64_t served;
    if (run(&self->allocate, (intptr_t)self->slots, &served) < 0)
        return torn(self);
    if (served > SHORT) {
        torn(self); /* records and table disagree */
        PyObject *raised = PyObject_CallNoArgs(self->refuse);
        Py_XDECREF(raised);
        return raised == NULL ? NULL : odd();
    }
    if (served == FITS) {
        PyObject *answer = take_over(self, call->request_id);
        return answer == NULL ? torn(self) : answer;
    }
    if (is_new && close_tables(self, call->request_id) < 0)
        return torn(self);
    return served == NO_ROOM ? Py_NewRef(Py_None) : odd();
}

/* Serve a request that may need something. */
static PyObject *allocate_for(Calls *self, PyObject *request, Call *call) {
    if ((call->hashes = PyObject_GetAttr(request, name_block_hashes)) == NULL || !PyList_CheckExact(call->hashes)
        || read_int(request, name_num_tokens, &call->num_tokens) != 1
        || read_int(request, name_num_prompt_tokens, &call->num_prompt) != 1
        || (self->masks && read_int(request, name_shared_prefix_boundary, &call->junction) != 1) || !is_ready(&self->allocate))
        return odd();
    PyObject *answer;
    UNDISTURBED(answer, serve(self, call));
    return answer;
}

/* `KVCacheManager.allocate_slots`. */
PyObject *allocate_slots(Calls *self, PyObject *const *arguments, Py_ssize_t count) {
    Call call = {0};
    if (count != 2 || !PyTuple_CheckExact(arguments[1]) || PyTuple_GET_SIZE(arguments[1]) != NUM_ARGUMENTS) {
        PyErr_SetString(PyExc_TypeError, "allocate_slots takes a request, and a tuple with the fields of a SlotsCall");
        return NULL;
    }
    PyObject *request = arguments[0], *answer;
    if (!read_arguments(self, arguments[1], &call) || read_int(request, name_num_computed_tokens, &call.num_computed) != 1
        || (call.request_id = PyObject_GetAttr(request, name_request_id)) == NULL)
        return odd();
    int covered = PyUnicode_CheckExact(call.request_id) ? is_covered(self, &call) : -1;
    if (covered == 0)
        answer = allocate_for(self, request, &call);
    else
        answer = covered < 0 ? odd() : Py_NewRef(self->empty);
    Py_DECREF(call.request_id);
    Py_XDECREF(call.hashes);
    return answer;
}

static PyObject *release(Calls *self, PyObject *request_id) {
    int64_t *table_ids = words_at(self->slots, TABLE_IDS), width;
    if (is_usual(self, &width) != 1)
        return odd();
    for (int place = 0; place < self->num_groups; place++)
        if ((table_ids[place] = table_id_of(self, place, request_id)) < 0)
            return odd();
    for (int place = 0; place < self->num_groups; place++) {
        PyObject *held = PyDict_GetItemWithError(self->groups[place].tables, request_id);
        if (held == NULL)
            return torn(self);
        int is_seen = Py_IS_TYPE(held, self->request_blocks) && Py_REFCNT(held) > 1;
        if ((is_seen && detach(self, held, table_ids[place]) < 0)
            || PyDict_DelItem(self->groups[place].tables, request_id) < 0)
            return torn(self);
    }
    int64_t done;
    if (run(&self->free, (intptr_t)self->slots, &done) < 0 || note_closed(self, table_ids, self->num_groups) < 0)
        return torn(self);
    return Py_NewRef(Py_None);
}

/* `KVCacheManager.free` of a request that holds blocks in all groups. */
PyObject *free_request(Calls *self, PyObject *request) {
    PyObject *request_id = PyObject_GetAttr(request, name_request_id), *answer;
    if (request_id == NULL || !PyUnicode_CheckExact(request_id) || !is_ready(&self->free)) {
        Py_XDECREF(request_id);
        return odd();
    }
    UNDISTURBED(answer, release(self, request_id));
    Py_DECREF(request_id);
    return answer;
}
