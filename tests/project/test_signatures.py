"""No function takes so many arguments that a reader must count them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MOST_PARAMETERS = 8
"""Of a function, without self; things that travel together are named fields of one."""

SHARE_OF_LONGEST = 0.02
"""Functions with so many."""

FIXED_BY_VLLM = {
    # Its options are those of `allocate_slots`.
    "batch/manager.py: BatchManager.allocate_batch",
    "block_pool.py: BlockPool.__init__",
    "coordinators/base.py: KVCacheCoordinator.__init__",
    "coordinators/base.py: KVCacheCoordinator.get_num_blocks_to_allocate",
    "groups/held_blocks.py: HeldBlocks.__init__",
    "groups/hits.py: GroupHits.reachable_block_mask",
    "groups/cross.py: CrossAttentionManager.find_longest_cache_hit",
    "groups/hits.py: GroupHits.find_longest_cache_hit",
    "manager.py: KVCacheManager.__init__",
    "manager.py: KVCacheManager.allocate_slots",
    "request.py: Request.__init__",
}


def functions():
    """Name -> number of parameters, of every function outside kernels/."""
    found = {}
    for path in (ROOT / "kvgpu").rglob("*.py"):
        name = path.relative_to(ROOT / "kvgpu").as_posix()
        if not name.startswith("kernels/"):
            for qualified, node in definitions(ast.parse(path.read_text()), ""):
                given = node.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                found[f"{name}: {qualified}"] = len(names) - (names[:1] in (["self"], ["cls"]))
    return found


def definitions(tree, prefix):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


FUNCTIONS = functions()


def test_signatures_that_vllm_fixes_are_long():
    assert {name for name in FIXED_BY_VLLM if FUNCTIONS.get(name, 0) >= MOST_PARAMETERS} == FIXED_BY_VLLM


@pytest.mark.parametrize("name", sorted(name for name, count in FUNCTIONS.items() if count > MOST_PARAMETERS))
def test_only_signatures_that_vllm_fixes_have_more_parameters(name):
    assert name in FIXED_BY_VLLM


def test_few_functions_have_so_many():
    own = {name: count for name, count in FUNCTIONS.items() if name not in FIXED_BY_VLLM}
    assert sum(count >= MOST_PARAMETERS for count in own.values()) <= SHARE_OF_LONGEST * len(own)
