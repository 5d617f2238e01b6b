"""Bringing a model from a hub into a cache, or looking at it: `vllm-operator fetch`.

The layout of the cache and the protocol are huggingface_hub's; the transfer is done here, because the library's own
starts a file anew after every interruption (file_download.py, _download_to_tmp_and_move).
"""
