"""Two processes under DDP: the averaged gradient is that of one process with all rows, whatever is changed in attention."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from reason_rl.attention.inject import AttentionBias
from reason_rl.attention.kl import AttentionKL
from reason_rl.attention.source import PriorSource
from reason_rl.attention.ssa import SSAOptions, add_ssa, ssa_parameters

SIZES = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
ROWS = torch.arange(48).view(4, 12) % 31
MASK = torch.ones_like(ROWS)
MASK[0, :3] = MASK[3, :5] = 0  # padded on the left


def loss(called, rows):
    """Return what does not depend on how rows are shared out."""
    return called(input_ids=ROWS[rows], attention_mask=MASK[rows], use_cache=False).logits.logsumexp(-1).mean()


def of_the_term(model, called, rows):
    term = AttentionKL(model, PriorSource(), 32, (0, 1), queries=7)
    with term.collecting():
        value = called(input_ids=ROWS[rows], use_cache=False).logits.logsumexp(-1).mean()
    return value + term.term(3)


def of_a_bias(model, called, rows, **options):
    AttentionBias(model, PriorSource(), 32, heads=(1.0, 0.0, 0.5, 1.0), strength=0.7, **options)
    return loss(called, rows)


def of_a_bias_by_factors(model, called, rows):
    return of_a_bias(model, called, rows, by_factors=True)


def of_temperatures(model, called, rows):
    return loss(called, rows)


def gradients(make_loss, rank=None, checkpointing=False):
    """Return the gradients over all rows, or over a rank's half of them under DDP."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).train()
    model.set_attn_implementation("sdpa")
    if make_loss is of_temperatures:
        add_ssa(model, SSAOptions(features="mlp"))
        with torch.no_grad():
            for _, parameter in ssa_parameters(model):
                parameter += 0.05
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    called = model if rank is None else DistributedDataParallel(model)
    rows = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    make_loss(model, called, rows).backward()
    return [p.grad.clone() for p in model.parameters()]


def rank(number, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=number, world_size=2)
    stock = gradients(of_temperatures)[0]
    for make_loss in (of_the_term, of_a_bias, of_a_bias_by_factors, of_temperatures):
        for checkpointing in (False, True):
            whole = gradients(make_loss)
            mine = gradients(make_loss, number, checkpointing)
            case = (make_loss.__name__, checkpointing)
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, mine, strict=True)), case
        assert make_loss is of_temperatures or not torch.allclose(whole[0], stock, atol=1e-6), case
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        free = found.getsockname()[1]
    mp.spawn(rank, (free,), nprocs=2)
