"""Modules that hold packed weights in place of dense ones."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitplan.errors import InputError
from bitplan.siblings import Siblings
from bitplan.weight import AbstractWeight


class PackedLinear(nn.Module):
    """A linear layer (or GPT-2's Conv1D) whose weight is packed.

    `fuse` is that of its layer, if any, and `siblings` those that have the same.
    """

    bias: nn.Parameter | None
    fuse: str | None = None
    siblings: Siblings | None = None

    def __init__(self, weight: AbstractWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, inputs: Float[Tensor, "*tokens in"]) -> Float[Tensor, "*tokens out"]:
        """Multiply, then add the bias."""
        # Not by name: `nn.Module` looks attributes up slowly, and a token has hundreds of these.
        weight, bias = self._modules["weight"], self._parameters["bias"]
        assert isinstance(weight, AbstractWeight)
        if self.siblings is None or torch.compiler.is_compiling():
            output = weight.multiply(inputs)
        else:
            output = self.siblings.multiply(weight, inputs)
        return output if bias is None else output + bias.to(output.dtype)


class PackedConvolution(nn.Module):
    """A convolution, over time or an image, whose weight is packed as [out, in x window].

    Decodes its weight for each call, and leaves it to torch to convolve.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: AbstractWeight, dense: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.in_channels, self.out_channels = dense.in_channels, dense.out_channels
        self.kernel_size, self.stride = dense.kernel_size, dense.stride
        self.padding, self.dilation = dense.padding, dense.dilation
        self.weight, bias = weight, dense.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        self.register_parameter("bias", bias)

    def forward(self, inputs: Float[Tensor, "batch in *size"]) -> Float[Tensor, "batch out *to"]:
        """Decode the weight, then convolve."""
        dense = self.weight.packed().decode(inputs.dtype)
        window = dense.view(self.out_channels, self.in_channels, *self.kernel_size)
        convolve = nn.functional.conv1d if len(self.kernel_size) == 1 else nn.functional.conv2d
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return convolve(inputs, window, bias, self.stride, self.padding, self.dilation)


class PackedEmbedding(nn.Module):
    """An embedding whose weight is packed; `factor` multiplies what it returns."""

    def __init__(self, weight: AbstractWeight, factor: float | Tensor | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.weight = weight
        if isinstance(factor, Tensor):
            self.register_buffer("embed_scale", factor, persistent=False)
        else:
            self.embed_scale = factor

    def forward(self, tokens: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens hidden"]:
        """Rows of the tokens; raises `InputError` for what is no int32 or int64, as torch does."""
        if tokens.dtype not in (torch.int64, torch.int32):
            raise InputError(
                f"The tokens are {str(tokens.dtype)[6:]}, but rows are looked up by int64 or int32 "
                "numbers. Convert them."
            )
        rows = self.weight.lookup(tokens)
        if self.embed_scale is None:
            return rows
        factor = self.embed_scale
        return rows * (factor.to(rows.dtype) if isinstance(factor, Tensor) else factor)
