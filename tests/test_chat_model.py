"""The path of a chat model, which a GPU takes by default, on a small random Qwen2 from a local folder.

Oracle: the files of a real run.
"""

import json

from test_cli import command, rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM


def test_a_chat_model_takes_the_same_path(tmp_path):
    """A small random Qwen2 with a chat template, in a local folder, with the chat preset's switches:
    K references, answers apart from attempts, micro-batches, chat prompts."""
    tokenizer = byte_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 8, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    result = command(
        "--model", "model", "--run-dir", "run", "--total-steps", "2", "--eval-every", "2", "--batch-size", "2",
        "--n-references", "2", "--max-answer-tokens", "5", "--max-proposal-tokens", "6", "--rollout-rows", "5", "--microbatch-tokens", "3000",
        "--max-prime", "13", "--eval-problems", "2", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    transcript = rows(tmp_path / "run" / "rollouts.jsonl")[0]
    assert transcript["prompt"].startswith("<|im_start|>user\nWrite a new problem")
    assert transcript["prompt"].endswith("<|im_start|>assistant\n")
    assert transcript["prompt"].count("≡ 1 (mod ") >= 3  # two references and the example
    config = json.loads((tmp_path / "run" / "config.json").read_text())["args"]
    assert (
        config["train_attempts"] is False
        and config["lr"] == 1e-6
        and config["warm_start_steps"] == 0
    )
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["grad_norm"] is not None and last["malformed_frac/proposer_abduction"] == 1


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, with Qwen's chat markup."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: index for index, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return fast
