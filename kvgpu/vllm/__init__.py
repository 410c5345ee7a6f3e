"""kvgpu inside vLLM: a plug-in that serves vLLM's scheduler with kvgpu's manager and block hasher.

    VLLM_PLUGINS=kvgpu vllm serve MODEL     # or KVGPU_VLLM=1; KVGPU_VLLM=0 turns it off
    KVGPU_VLLM=check vllm serve MODEL       # vLLM's manager serves, kvgpu's is compared with it

`register` in `kvgpu.vllm.plugin` is the entry point. docs/vllm.md says how it works.
"""
