"""A table policy for tests: the next token depends on the last one alone, through a table of logits.

A real `PreTrainedModel` with real gradients, so that it goes through the same `generate` and
`token_logprobs` as a transformer, and small enough to enumerate every response it can give. It
cannot see a missing attention mask or a wrong position; tests of those use a small Qwen2.
"""

from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class MockConfig(PreTrainedConfig):
    """vocab_size: V, the number of tokens."""

    model_type = "mock_table"

    def __init__(self, vocab_size: int = 8, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        super().__init__(**kwargs)


class MockBackbone(nn.Module):
    """Hidden state (batch, time, V) = the table's row of each token: already its logits."""

    def __init__(self, config: MockConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPast:
        # The old name of `cache`, which transformers 5.23 has alone and 5.24 takes too.
        kept: dict[str, Any] = {"past_key_values": DynamicCache()}
        return BaseModelOutputWithPast(last_hidden_state=self.table(input_ids), **kept)


class MockTransformer(PreTrainedModel):
    """`table[a, b]` is the logit of token b after token a; all zero at first, so uniform."""

    config_class = MockConfig
    base_model_prefix = "model"

    def __init__(self, config: MockConfig) -> None:
        super().__init__(config)
        self.model = MockBackbone(config)
        self.head = nn.Identity()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)

    @property
    def table(self) -> torch.Tensor:
        return self.model.table.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> CausalLMOutputWithPast:
        output = self.model(input_ids)
        kept: dict[str, Any] = {"past_key_values": output.past_key_values}
        return CausalLMOutputWithPast(logits=self.head(output.last_hidden_state), **kept)
