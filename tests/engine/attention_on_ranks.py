"""Two processes under DDP: the averaged gradient of the prior's term is that of one process with all rows."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.source import PriorSource

SIZES = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
ROWS = torch.arange(48).view(4, 12) % 31


def gradients(model, called, rows, checkpointing):
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    term = AttentionKL(model.train(), PriorSource(), 32, (0, 1), queries=7)
    with term.collecting():
        logits = called(input_ids=rows, use_cache=False).logits
    (logits.logsumexp(-1).mean() + term.term(3)).backward()
    return [p.grad.clone() for p in model.parameters()]


def make():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.set_attn_implementation("sdpa")
    return model


def rank(number, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=number, world_size=2)
    for checkpointing in (False, True):
        whole = gradients(one := make(), one, ROWS, checkpointing)
        mine = gradients(
            model := make(), DistributedDataParallel(model), ROWS[2 * number : 2 * number + 2], checkpointing
        )
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, mine, strict=True)), checkpointing
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        free = found.getsockname()[1]
    mp.spawn(rank, (free,), nprocs=2)
