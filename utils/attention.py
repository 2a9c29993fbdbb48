"""Which of torch's attention kernels a process may use."""

import torch


def avoid_cudnn_attention() -> None:
    """Do without cuDNN's attention, which torch prefers on Hopper and Blackwell GPUs: it plans anew for
    every shape, and each decoded token is a new one; and with a mask of 64 modulo 128 positions it can
    give gradients that are not numbers (pytorch 196678, trl 7181). On one H200 (torch 2.11, cuDNN 9.19) the
    planning took 20 to 40 ms a layer and token, and gradients were finite. Can be called without CUDA."""
    torch.backends.cuda.enable_cudnn_sdp(False)
