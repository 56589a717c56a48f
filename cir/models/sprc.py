"""SPRC: sentence-level prompts for composed image retrieval (Bai et al., ICLR 2024), on BLIP-2's Q-Former.

One class for every size; sizes are configuration. The blocks are Hugging Face transformers' BLIP-2 modules, which
express the four passes of the official code exactly:

    A  fusion    [query tokens, caption] x reference image -> sentence prompt P (B, T, width)
    B  sentence  [P, caption], no image                    -> query vector
    C  target    [query tokens] x target image             -> gallery tokens
    D  prompt    [CLS, learned prompts, caption], no image -> text-only query vector; trains the prompts

Passes without an image run *every* position through the text feed-forward (`query_length=0`), query tokens included:
that is what the official code does, and its weights depend on it.

Letters: B batch, T query tokens, L text length, D dims of the shared space, P image positions, W image width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.models.backbones import make_backbone, make_whole_picture
from cir.models.config import SprcConfig
from cir.models.stationary import assemble_blocks

if TYPE_CHECKING:
    from cir.text import Tokenizer

CLS = 0  # position of the caption's own [CLS] in pass D, where it comes first


class Sprc(nn.Module):
    """The query encoder and the gallery encoder, sharing one Q-Former.

    Args:
        config: sizes.
        tokenizer: turns raw captions into ids; needed only by the methods that take captions.
    """

    def __init__(self, config: SprcConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        from transformers import Blip2QFormerConfig
        from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel, Blip2TextEmbeddings

        self.config = config
        self.tokenizer = tokenizer
        self.vision = make_backbone(config.vision)
        vision_width: int = self.vision.width  # type: ignore[assignment]
        self.ln_vision = nn.LayerNorm(vision_width)
        sizes = Blip2QFormerConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.positions,
            cross_attention_frequency=config.cross_attention_every,
            encoder_hidden_size=vision_width,
            use_qformer_text_input=True,
        )
        self.embeddings = Blip2TextEmbeddings(sizes)
        self.qformer = Blip2QFormerModel(sizes)
        self.query_tokens = nn.Parameter(torch.randn(1, config.query_tokens, config.width) * 0.02)
        self.prompt_tokens = nn.Parameter(torch.randn(1, config.query_tokens, config.width) * 0.02)
        self.vision_proj = nn.Linear(config.width, config.dims) if config.gallery_tokens else None
        self.text_proj = nn.Linear(config.width, config.dims)
        self.gallery_proj = nn.Linear(config.width, config.dims) if config.gallery_vector else None
        older = {space: nn.Linear(config.width, dims) for space, dims in config.query_heads.items()}
        self.query_heads = nn.ModuleDict(older)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.whole = make_whole_picture(config, vision_width)
        self.backbone_precision = torch.float32  # less where the loader has cast `backbone_matrices`

    # The four passes, on image features and token ids. Training calls them with cached features.

    def image_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed pixels -> (B, P, W) raw features of the frozen backbone, before `ln_vision`."""
        if self.backbone_precision == torch.float32:
            features: Tensor = self.vision(pixels)
            return features
        # Products in less precision, sums along the residual stream and norms in float32, as the official code runs.
        with torch.autocast(pixels.device.type, dtype=self.backbone_precision):
            features = self.vision(pixels)
        return features.float()

    def backbone_matrices(self) -> set[str]:
        """Names of the backbone's matrices: nearly all of a ViT's weights; only these may be held in less precision."""
        modules = self.vision.named_modules()
        return {f"vision.{name}.weight" for name, module in modules if isinstance(module, nn.Linear)}

    def sentence_prompt(self, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Pass A: (B, P, W) features and (B, L) caption -> P (B, T, width)."""
        queries = self.query_tokens.expand(len(ids), -1, -1)
        out = self._qformer(
            self.embeddings(input_ids=ids, query_embeds=queries),
            _with_prompts(mask, self.config.query_tokens),
            features=features,
        )
        prompt = out[:, : self.config.query_tokens]
        return prompt if self.whole is None else prompt + self.whole.prompt(self.whole.pool(features))

    def sentence_vector(self, prompt: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Pass B: (B, T, width) prompt and (B, L) caption -> (B, D) unit-norm."""
        return self.project_query(self.sentence_state(prompt, ids, mask))

    def sentence_state(self, prompt: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Pass B before its projection: (B, T, width) prompt and (B, L) caption -> (B, width)."""
        seen = _with_prompts(mask, self.config.query_tokens)
        out = self._qformer(self.embeddings(input_ids=ids, query_embeds=prompt), seen)
        # The caption's [CLS] stands right behind the T prompts.
        return self._sentence(out, seen, first=self.config.query_tokens)

    def target_states(self, features: Tensor) -> Tensor:
        """Pass C: (B, P, W) features -> (B, T, width) Q-Former outputs, plus the summary of the whole picture."""
        states = self.map_states(features)
        if self.whole is None or self.whole.summary is None:
            return states
        summary: Tensor = states + self.whole.summary(self.whole.pool(features))[:, None]
        return summary

    def map_states(self, features: Tensor) -> Tensor:
        """Pass C without the summary: (B, P, W) features -> (B, T, width) Q-Former outputs."""
        queries = self.query_tokens.expand(len(features), -1, -1)
        return self._qformer(queries, None, features=features)

    def prompted_text_vector(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Pass D: (B, L) caption with the learned prompts -> (B, D) unit-norm."""
        return self.project_query(self.prompted_text_state(ids, mask))

    def prompted_text_state(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Pass D before its projection: (B, L) caption with the learned prompts -> (B, width)."""
        tokens = self.config.query_tokens
        words = self.embeddings.word_embeddings(ids)  # (B, L, width)
        prompts = self.prompt_tokens.expand(len(ids), -1, -1)
        mixed = torch.cat([words[:, :1], prompts, words[:, 1:]], dim=1)  # [CLS, prompts, rest]
        mixed = mixed + self.embeddings.position_embeddings.weight[: mixed.shape[1]]
        seen = _with_prompts(mask, tokens)
        return self._sentence(self._qformer(mixed, seen), seen, first=CLS)

    def _sentence(self, states: Tensor, mask: Tensor, *, first: int) -> Tensor:
        """(B, T + L, width) states and their mask -> (B, width): the sentence's one state, [CLS] being at `first`."""
        if self.config.sentence == "first":
            return states[:, first]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)

    def _qformer(self, embedded: Tensor, mask: Tensor | None, *, features: Tensor | None = None) -> Tensor:
        if features is None:
            out = self.qformer(query_embeds=embedded, attention_mask=mask, query_length=0)
        else:
            out = self.qformer(
                query_embeds=embedded,
                attention_mask=mask,
                query_length=self.config.query_tokens,
                encoder_hidden_states=self.ln_vision(features),
            )
        states: Tensor = out.last_hidden_state
        return states

    # Used by search.

    def project_query(self, states: Tensor, space: str | None = None) -> Tensor:
        """(B, width) of pass B or D -> (B, D) unit-norm, in the model's own space or an older one it has a head for."""
        head = self.text_proj if space is None else self.query_heads[space]
        return _unit(head(states))

    def project_tokens(self, states: Tensor) -> Tensor:
        """(B, T, width) of pass C -> (B, T, D) unit-norm gallery tokens."""
        if self.vision_proj is None:
            raise ValueError("this model has no gallery tokens; use its vector")
        return _unit(self.vision_proj(states))

    def project_vector(self, states: Tensor) -> Tensor:
        """(B, T, width) of pass C -> (B, D) unit-norm gallery vector, from the mean over T."""
        return self.normalise_gallery(self.gallery_features(states))

    def gallery_features(self, states: Tensor) -> Tensor:
        """(B, T, width) of pass C -> (B, D) gallery vectors before they are normalised."""
        if self.gallery_proj is None:
            raise ValueError("this model has no gallery vector; use its tokens")
        features: Tensor = self.gallery_proj(states.mean(dim=1))
        return features

    def normalise_gallery(self, features: Tensor, *, detach_simplex: bool = False) -> Tensor:
        """(B, D) features -> (B, D) unit-norm gallery vectors; `detach_simplex` as in `stationary.assemble_blocks`."""
        if self.config.simplex is None:
            return _unit(features)
        return assemble_blocks(features, self.config.simplex, detach_simplex=detach_simplex)

    def gallery_tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) preprocessed pixels -> (B, T, D) unit-norm."""
        return self.project_tokens(self.target_states(self.image_features(pixels)))

    def query_vectors(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """(B, 3, H, W) references and B raw captions -> (B, D) unit-norm."""
        return self.project_query(self.query_states(pixels, captions))

    def query_states(self, pixels: Tensor, captions: Sequence[str]) -> Tensor:
        """(B, 3, H, W) references and B raw captions -> (B, width), the input of every head."""
        ids, mask = self.tokenize(captions)
        return self.sentence_state(self.sentence_prompt(self.image_features(pixels), ids, mask), ids, mask)

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B raw captions -> ids and mask, (B, L) int64 each, on the model's device."""
        if self.tokenizer is None:
            raise ValueError("this model was made without a tokenizer")
        ids, mask = self.tokenizer(captions, self.config.text_length)
        device = self.query_tokens.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)

    # Used by training.

    def losses(self, reference: Tensor, target: Tensor, captions: Sequence[str]) -> dict[str, Tensor]:
        """The three losses of the official code on one batch of triplets.

        Args:
            reference, target: (B, 3, H, W) preprocessed pixels; row i of both belongs to caption i.
            captions: B raw strings.

        Returns:
            {"itc", "rtc", "align"}: scalars, not weighted; scores are divided by the temperature.
        """
        with torch.no_grad():  # the backbone is frozen
            reference_features, target_features = self.image_features(reference), self.image_features(target)
        ids, mask = self.tokenize(captions)
        prompt = self.sentence_prompt(reference_features, ids, mask)
        composed = self.sentence_vector(prompt, ids, mask)
        prompted = self.prompted_text_vector(ids, mask)
        tokens = self.project_tokens(self.target_states(target_features))
        labels = torch.arange(len(ids), device=ids.device)
        return {
            "itc": F.cross_entropy(scores(composed, tokens) / self.temp, labels),
            "rtc": F.cross_entropy(scores(prompted, tokens) / self.temp, labels),
            "align": self.alignment(prompt),
        }

    def alignment(self, prompt: Tensor) -> Tensor:
        """Pull the sentence prompt (B, T, width) towards the learned prompts, which do not move for it; a scalar."""
        goal = self.prompt_tokens.mean(dim=1).detach()
        return F.mse_loss(prompt.mean(dim=1), goal.expand(len(prompt), -1))


def scores(queries: Tensor, tokens: Tensor) -> Tensor:
    """(B, D) queries against (N, T, D) tokens -> (B, N) float32: the maximum over T of the inner products.

    Always in float32, even under autocast: divided by the temperature, cosines in bfloat16 are 0.06 apart.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return torch.einsum("bd,ntd->bnt", queries.float(), tokens.float()).amax(dim=-1)


def _unit(values: Tensor) -> Tensor:
    """(..., D) -> float32, unit-norm; normalised in float32 even where autocast projected in less."""
    return F.normalize(values.float(), dim=-1)


def _with_prompts(mask: Tensor, tokens: int) -> Tensor:
    """(B, L) caption mask -> (B, T + L); prompts are never masked."""
    return torch.cat([mask.new_ones(len(mask), tokens), mask], dim=1)
