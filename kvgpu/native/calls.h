/* `Calls`, and what its methods share. The rules are not here: `kvgpu/allocation/single_call.py` and
   `kvgpu/index/host/list_match.py` have them as compiled code, which these methods call by its address. */

#ifndef KVGPU_NATIVE_CALLS_H
#define KVGPU_NATIVE_CALLS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL kvgpu_native_numpy
#ifndef KVGPU_NATIVE_MODULE
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <stdint.h>

/* What Python's modules name the same; `LAYOUT` in module.c tells Python, which compares. */
enum { POOL, STORE, GROUPS, ARGUMENTS, TABLE_IDS, STARTS, OUT, HITS, HIT_ENDS, HASHES };
enum { FITS, NO_ROOM, REFUSED, SHORT };
enum { MOST_TOKENS = 2147483647 };
enum { KEYS, EVICTED, COVERED_UNTIL, NUM_TAKEN, NUM_NEW, PLACES };
enum { TABLES = 0, IDS = 1 };
enum { BEGIN, LENGTH, LIMIT, NUM_CACHED, COVERED, SERIAL, JUNCTION, TABLE_WORDS = 8 };
enum { NULL_ID = 15 };
enum { QUESTION = 2, FOUND = 3 };
enum { LISTED, NUM_HASHES, KIND, WIDTH, MAX_LENGTH };
enum { MOST_PARTS = 256 };
enum { CHAIN_TOKENS, CHAIN_DIGESTS, CHAIN_SIZE = 11, CHAIN_BLOCKS, CHAIN_LOOKAHEAD = 14 };
enum { DIGEST_BYTES = 32 };

/* The fields of ARGUMENT_RECORD, in order. */
typedef struct {
    int64_t num_computed, num_hit_tokens, num_external, num_new, num_lookahead, num_tokens, num_prompt, junction, num_hashed;
    int64_t num_in_flight, max_model_len, reserved_blocks, headroom, first_hash, whole, takes_hits, caches, caching;
    int64_t num_encoder, hash_block_size, num_hashes, distinct, clamps, listed, bytes_type, hash_width;
} Arguments;

/* Compiled code returns 0, or something else if it has raised an error, which can only be that there is no memory. */
typedef int32_t (*Code)(int64_t *result, void **error, int64_t handle);
typedef int32_t (*CodeOfFour)(int64_t *result, void **error, int64_t, int64_t, int64_t, int64_t);
typedef int32_t (*CodeOfSix)(int64_t *result, void **error, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);

/* Compiled code: a Python function makes it, and returns its address, when it is first needed. */
typedef struct {
    PyObject *make;
    int64_t address;
} Entry;

typedef struct {
    PyObject *tables;  /* request id -> RequestBlocks, or the id of a block table */
    PyObject *new_ids; /* NewBlockIds; NULL if the group records none */
    int shares;        /* whether its leading blocks may be shared by all requests */
    int line, query;   /* its line of a lookup, and the query that this line belongs to */
} Group;

typedef struct {
    PyObject_HEAD
    PyObject *parts;   /* holds a reference to everything below */
    PyObject *turn, *state, *extras, *foreign, *events, *store, *index, *allocator, *lookups;
    PyObject *empty, *no_ids, *refuse;
    PyTypeObject *request_blocks, *block_list, *cache_blocks;
    Entry allocate, free, match, shared;
    int64_t *slots, *question;
    int64_t *last_hand_out; /* number of the call that last handed out blocks to its caller */
    int64_t *ends;     /* where the hits of each group end, and as many zeros */
    int32_t *hits;     /* hits of all groups, if there are several */
    int64_t room_for_hits;
    int64_t max_model_len, hash_block_size, reach;
    int caching;
    int clamps;          /* whether hashes of full blocks may be missing */
    int masks;           /* whether the junction of a request decides what is cached */
    int reports;         /* whether lookups say where the junction is, and are not counted */
    int num_groups, num_queries;
    Group *groups;
} Calls;

/* Names of attributes, made once. */
#define NAMES(_)                                                                                                      \
    _(_count) _(_idle) _(_ids) _(_mirror) _(_most) _(_num_keys) _(_parts) _(_serial) _(_store) _(_whole) _(add)       \
    _(block_hashes) _(blocks) _(close) _(copy) _(covered_until) _(enabled) _(foreign) _(has_odd_names) _(holders) _(ids) _(mirrors) _(null_id) _(num_changes) _(num_closed)     \
    _(num_computed_tokens) _(num_evictions) _(num_preemptions) _(num_prompt_tokens) _(num_tokens)                     \
    _(request_id) _(shared_prefix_boundary) _(skip_reading_prefix_cache) _(state) _(stats) _(table_id) _(tables) _(torn) _(width)
/* The types of lists of blocks, once a manager has been made. */
extern PyTypeObject *block_list_type, *request_blocks_type;

#define DECLARE(name) extern PyObject *name_##name;
NAMES(DECLARE)

/* Whether an exact int was read; one that does not fit, or another object, is odd. */
static inline int as_int(PyObject *value, int64_t *number) {
    int overflow;
    if (!PyLong_CheckExact(value))
        return 0;
    *number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return !overflow;
}

static inline int64_t *words_at(const int64_t *handle, int place) { return (int64_t *)(intptr_t)handle[2 * place]; }

static inline int64_t *table_at(const Calls *self, int64_t table_id) {
    return words_at(words_at(self->slots, STORE), TABLES) + TABLE_WORDS * table_id;
}

/* Evaluate something while the collector is stopped, since it may run finalizers: any code of Python's. */
#define UNDISTURBED(answer, expression)                                                                               \
    do {                                                                                                              \
        int collects = PyGC_Disable();                                                                                \
        answer = (expression);                                                                                        \
        if (collects)                                                                                                 \
            PyGC_Enable();                                                                                            \
    } while (0)

int read_int(PyObject *from, PyObject *name, int64_t *number);
int add_to(PyObject *to, PyObject *name, int64_t more);
int is_nobody_inside(PyObject *turn);
int is_quiet(Calls *self, int64_t *width);
int is_usual(Calls *self, int64_t *width);
int is_ready(Entry *entry);
int64_t table_id_of(const Calls *self, int place, PyObject *request_id);
int run(const Entry *entry, int64_t handle, int64_t *result);
PyObject *torn(Calls *self);
PyObject *odd(void);
PyObject *new_ids(const int32_t *ids, int64_t count);
PyObject *new_block_list(Calls *self, PyObject *ids);
PyObject *new_cache_blocks(Calls *self, PyObject *lists);

int ready_tables(Calls *self, PyObject *request_id, int *is_new);
int close_tables(Calls *self, PyObject *request_id);
int note_closed(Calls *self, const int64_t *table_ids, int count);
int detach(Calls *self, PyObject *blocks, int64_t table_id);

PyObject *allocate_slots(Calls *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *cache_blocks(Calls *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *free_request(Calls *self, PyObject *request);
PyObject *get_computed_blocks(Calls *self, PyObject *request);
PyObject *read_ints(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *read_lengths(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *add_to_ints(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
int64_t *ints_in(PyObject *array);
PyObject *hash_blocks(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *append_tokens(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *cover_rows(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *block_ids(PyObject *module, PyObject *blocks);
PyObject *get_block_ids(Calls *self, PyObject *request_id);
PyObject *get_num_common_prefix_blocks(Calls *self, PyObject *request_id);

#endif
