"""Small random models of many architectures in local folders, and what the command says of them."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.chat_models import byte_tokenizer
from model import train

WORDS = 267  # of `byte_tokenizer`, and some ids more
SHAPE = dict(vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
GPT2 = dict(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=2, n_positions=2048)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=16)

# A step with responses that are short and prompts of the chat language, about 600 bytes.
SHORT = ["--total-steps", "1", "--eval-every", "1", "--batch-size", "2", "--n-attempts", "2",
         "--n-references", "1", "--max-answer-tokens", "5", "--max-proposal-tokens", "6",
         "--max-prime", "13", "--eval-problems", "2", "--seed-problems", "2",
         "--precision", "float32"]  # fmt: skip


def odd_model(folder: Path, kind: str, template: str | None = None, **settings) -> Path:
    """A folder with a model of an architecture and `byte_tokenizer`; weights are large enough for what
    the model computes to depend on what it reads."""
    tokenizer = byte_tokenizer()
    if template is not None:
        tokenizer.chat_template = template
    config = AutoConfig.for_model(kind, **settings)
    ends = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    for one in (config, config.get_text_config(decoder=True)):
        one.update({**ends, "bos_token_id": None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float()
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.25)
    model.generation_config.update(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_tensors(folder: Path, change) -> None:
    """Rewrite a folder's tensors by a function of their dict."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def said_of(capsys, folder: Path, *flags: str) -> tuple[int, str]:
    """Exit status and stderr of a short run of a folder's model, which leaves nothing where it ends with
    a sentence: one line, no traceback."""
    run = folder.parent / "run"
    status = train.main([*SHORT, "--model", str(folder), "--run-dir", str(run), "--quiet", *flags])
    said = capsys.readouterr().err
    if status:
        assert status == 2 and len(said.splitlines()) == 1, said
        assert "Traceback" not in said and said.rstrip("\n").isprintable()
        assert not run.exists()
    return status, said
