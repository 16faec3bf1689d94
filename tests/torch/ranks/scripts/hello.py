"""The first program that anybody writes: a group, the rank, the end."""

import torch.distributed as dist

dist.init_process_group("rdmatensor")
print(f"hello from {dist.get_rank()} of {dist.get_world_size()}", flush=True)
dist.destroy_process_group()
