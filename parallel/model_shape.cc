#include "parallel/model_shape.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "parallel/gguf_file.h"
#include "parallel/json_fields.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kConfigBytesMax = 16 << 20;
constexpr const char* kMllama = "MllamaForConditionalGeneration";
constexpr const char* kDecoderPrefix = "language_model.";

// What transformers' MllamaTextConfig and MllamaVisionConfig assume where config.json is silent.
const json& TextDefaults() {
  static const json* const kDefaults = new json({{"hidden_size", 4096},
                                                 {"intermediate_size", 14336},
                                                 {"num_hidden_layers", 40},
                                                 {"num_attention_heads", 32},
                                                 {"num_key_value_heads", 8},
                                                 {"vocab_size", 128256},
                                                 {"max_position_embeddings", 131072},
                                                 {"rms_norm_eps", 1e-5}});
  return *kDefaults;
}
constexpr int64_t kExtraRows = 8;
constexpr int64_t kVisionMax = 1 << 16;  // of any of its dimensions, so that no product overflows

TensorSlice Whole(std::string name, int64_t rows, int64_t cols, bool is_vector) {
  return {.name = std::move(name),
          .full_rows = rows,
          .full_cols = cols,
          .rows = {.begin = 0, .end = rows},
          .cols = {.begin = 0, .end = cols},
          .is_vector = is_vector};
}

TensorSlice Matrix(std::string name, int64_t rows, int64_t cols) {
  return Whole(std::move(name), rows, cols, false);
}
// Also a table that is only looked up.
TensorSlice Vector(std::string name, int64_t elements) {
  return Whole(std::move(name), 1, elements, true);
}

absl::StatusOr<JsonFields> Object(const JsonFields& fields, const char* key) {
  const json* found = fields.Find(key);
  if (found == nullptr || !found->is_object()) return fields.Invalid(key, "it must be an object");
  return JsonFields(*found, absl::StrCat(fields.origin(), ": ", key));
}

// The decoder's own keys are Llama's.
absl::StatusOr<ModelConfig> ParseDecoder(const JsonFields& root, const json& text_config) {
  json llama = TextDefaults();
  llama.update(text_config);
  llama["architectures"] = json::array({"LlamaForCausalLM"});
  // The older place of the key is beside text_config.
  if (const json* tie = root.Find("tie_word_embeddings"); tie != nullptr) {
    llama["tie_word_embeddings"] = *tie;
  }
  // Of the rotary embedding nothing matters to sizes.
  for (const char* key : {"rope_scaling", "rope_parameters", "quantization_config"}) {
    llama.erase(key);
  }
  ASSIGN_OR_RETURN(ModelConfig config,
                   ModelConfig::Parse(llama.dump(-1, ' ', true, json::error_handler_t::replace),
                                      absl::StrCat(root.origin(), ": text_config")));
  config.architecture = kMllama;
  return config;
}

absl::Status ParseCrossAttention(const JsonFields& text, ModelShape& shape) {
  constexpr const char* kKey = "cross_attention_layers";
  shape.cross_attention.assign(static_cast<size_t>(shape.config.num_layers), 0);
  const json fallback = json::parse("[3, 8, 13, 18, 23, 28, 33, 38]");
  const json* layers = text.Find(kKey);
  if (layers == nullptr) layers = &fallback;
  const std::string hint =
      absl::StrCat("it must be a list of layers, each from 0 to ", shape.config.num_layers - 1);
  if (!layers->is_array()) return text.Invalid(kKey, hint);
  for (const json& layer : *layers) {
    if (!layer.is_number_unsigned() ||
        layer.get<uint64_t>() >= static_cast<uint64_t>(shape.config.num_layers)) {
      return text.Invalid(kKey, hint);
    }
    shape.cross_attention[layer.get<size_t>()] = 1;
  }
  return absl::OkStatus();
}

struct VisionConfig {
  int64_t hidden, intermediate, layers, global_layers, channels, image, patch, tiles, output;
  int64_t aspect_ratios;
};

absl::StatusOr<VisionConfig> ParseVision(const JsonFields& fields) {
  VisionConfig vision{};
  const auto read = [&fields](int64_t& value, const char* key, int64_t fallback) {
    const absl::StatusOr<int64_t> read = fields.Whole(key, 1, kVisionMax, fallback);
    if (read.ok()) value = *read;
    return read.status();
  };
  RETURN_IF_ERROR(read(vision.hidden, "hidden_size", 1280));
  RETURN_IF_ERROR(read(vision.intermediate, "intermediate_size", 5120));
  RETURN_IF_ERROR(read(vision.layers, "num_hidden_layers", 32));
  RETURN_IF_ERROR(read(vision.global_layers, "num_global_layers", 8));
  RETURN_IF_ERROR(read(vision.channels, "num_channels", 3));
  RETURN_IF_ERROR(read(vision.image, "image_size", 448));
  RETURN_IF_ERROR(read(vision.patch, "patch_size", 14));
  RETURN_IF_ERROR(read(vision.tiles, "max_num_tiles", 4));
  RETURN_IF_ERROR(read(vision.output, "vision_output_dim", 7680));
  const json* ratios = fields.Find("supported_aspect_ratios");
  if (ratios != nullptr && !ratios->is_array()) {
    return fields.Invalid("supported_aspect_ratios", "it must be a list");
  }
  vision.aspect_ratios = ratios == nullptr ? 8 : static_cast<int64_t>(ratios->size());
  if (vision.layers > 4096 || vision.global_layers > 4096 || vision.tiles > 256 ||
      vision.channels > 16 || vision.patch > 1024 || vision.patch > vision.image ||
      vision.image / vision.patch > 1024 || vision.aspect_ratios > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.origin(),
                     ": it may have at most 4096 num_hidden_layers and num_global_layers, 256 "
                     "max_num_tiles and supported_aspect_ratios, 16 num_channels, patch_size 1024 "
                     "(and image_size), and 1024 patches in a row"));
  }
  return vision;
}

void AddVisionLayer(const VisionConfig& vision, const std::string& layer, bool gated,
                    std::vector<TensorSlice>& list) {
  const int64_t hidden = vision.hidden;
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    list.push_back(Matrix(absl::StrCat(layer, "self_attn.", name, ".weight"), hidden, hidden));
  }
  list.push_back(Matrix(layer + "mlp.fc1.weight", vision.intermediate, hidden));
  list.push_back(Vector(layer + "mlp.fc1.bias", vision.intermediate));
  list.push_back(Matrix(layer + "mlp.fc2.weight", hidden, vision.intermediate));
  list.push_back(Vector(layer + "mlp.fc2.bias", hidden));
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
    list.push_back(Vector(absl::StrCat(layer, norm, ".weight"), hidden));
    list.push_back(Vector(absl::StrCat(layer, norm, ".bias"), hidden));
  }
  if (gated) {
    list.push_back(Vector(layer + "gate_attn", 1));
    list.push_back(Vector(layer + "gate_ffn", 1));
  }
}

// The patches of a tile and its class token.
int64_t TileTokens(const VisionConfig& vision) {
  const int64_t side = vision.image / vision.patch;
  return side * side + 1;
}

std::vector<TensorSlice> VisionTensors(const VisionConfig& vision, int64_t decoder_hidden) {
  const std::string prefix = "vision_model.";
  const int64_t hidden = vision.hidden;
  const int64_t ratios = vision.aspect_ratios + 1;  // and padding
  std::vector<TensorSlice> list;
  list.push_back(Vector(prefix + "class_embedding", hidden));
  list.push_back(Matrix(prefix + "patch_embedding.weight", hidden,
                        vision.channels * vision.patch * vision.patch));
  const std::string position = prefix + "gated_positional_embedding.";
  list.push_back(Vector(position + "gate", 1));
  list.push_back(Vector(position + "embedding", TileTokens(vision) * hidden));
  list.push_back(Vector(position + "tile_embedding.weight",
                        ratios * vision.tiles * TileTokens(vision) * hidden));
  for (const char* name : {"pre_tile_positional_embedding.", "post_tile_positional_embedding."}) {
    list.push_back(Vector(absl::StrCat(prefix, name, "gate"), 1));
    list.push_back(
        Vector(absl::StrCat(prefix, name, "embedding.weight"), ratios * vision.tiles * hidden));
  }
  for (const char* name : {"layernorm_pre", "layernorm_post"}) {
    list.push_back(Vector(absl::StrCat(prefix, name, ".weight"), hidden));
    list.push_back(Vector(absl::StrCat(prefix, name, ".bias"), hidden));
  }
  for (int64_t i = 0; i < vision.layers; ++i) {
    AddVisionLayer(vision, absl::StrCat(prefix, "transformer.layers.", i, "."), false, list);
  }
  for (int64_t i = 0; i < vision.global_layers; ++i) {
    AddVisionLayer(vision, absl::StrCat(prefix, "global_transformer.layers.", i, "."), true, list);
  }
  list.push_back(Matrix("multi_modal_projector.weight", decoder_hidden, vision.output));
  list.push_back(Vector("multi_modal_projector.bias", decoder_hidden));
  return list;
}

absl::StatusOr<ModelShape> ParseMllama(const JsonFields& root) {
  ASSIGN_OR_RETURN(const JsonFields text, Object(root, "text_config"));
  ASSIGN_OR_RETURN(const JsonFields vision_fields, Object(root, "vision_config"));
  if (root.Has("quantization_config")) {
    return absl::UnimplementedError(
        absl::StrCat(root.origin(), ": unsupported: quantization_config of ", kMllama,
                     "; size it with the plain checkpoint's config.json and --dtype"));
  }
  ModelShape shape;
  shape.computed = false;
  ASSIGN_OR_RETURN(shape.config, ParseDecoder(root, *root.Find("text_config")));
  RETURN_IF_ERROR(ParseCrossAttention(text, shape));
  ASSIGN_OR_RETURN(const VisionConfig vision, ParseVision(vision_fields));
  shape.extra_embedding_rows = kExtraRows;
  shape.image_tokens = vision.tiles * TileTokens(vision);
  shape.vision = VisionTensors(vision, shape.config.hidden_size);
  return shape;
}

bool IsMllama(const JsonFields& root) {
  const json* names = root.Find("architectures");
  return names != nullptr && names->is_array() && names->size() == 1 && names->at(0) == kMllama;
}

// transformers 5 writes dtype, before it was torch_dtype; Mllama may have it in text_config only.
absl::StatusOr<std::string> ParseDType(const JsonFields& fields, const JsonFields* inner) {
  for (const JsonFields* place : {&fields, inner}) {
    if (place == nullptr) continue;
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (!place->Has(key)) continue;
      ASSIGN_OR_RETURN(const std::string name, place->String(key, ""));
      if (name == "bfloat16") return "BF16";
      if (name == "float16") return "F16";
      if (name == "float32") return "F32";
      return place->Invalid(key, "it must be bfloat16, float16 or float32");
    }
  }
  return "BF16";
}

// Mllama's layer in place of Llama's.
void MakeCrossAttention(const std::string& layer, int64_t head_dim,
                        std::vector<TensorSlice>& slices) {
  const std::string self = layer + "self_attn.";
  for (TensorSlice& slice : slices) {
    if (!slice.name.starts_with(self)) continue;
    slice.name = absl::StrCat(layer, "cross_attn.", slice.name.substr(self.size()));
  }
  slices.push_back(Vector(layer + "cross_attn.q_norm.weight", head_dim));
  slices.push_back(Vector(layer + "cross_attn.k_norm.weight", head_dim));
  slices.push_back(Vector(layer + "cross_attn_attn_gate", 1));
  slices.push_back(Vector(layer + "cross_attn_mlp_gate", 1));
}

}  // namespace

absl::StatusOr<ModelShape> ModelShape::Load(const std::filesystem::path& model) {
  if (IsGgufPath(model)) {
    ModelShape shape;
    ASSIGN_OR_RETURN(shape.config, ModelConfig::Load(model));
    shape.sizing_dtype = "BF16";
    return shape;
  }
  std::error_code error;
  const bool is_directory = std::filesystem::is_directory(model, error);
  if (!is_directory && !std::filesystem::is_regular_file(model, error)) {
    return absl::NotFoundError(
        absl::StrCat(model.string(),
                     ": no such file; give a Hugging Face checkpoint directory, a .gguf file, or a "
                     "config.json"));
  }
  const std::filesystem::path path = is_directory ? model / "config.json" : model;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kConfigBytesMax));
  return Parse(text, path.string());
}

absl::StatusOr<ModelShape> ModelShape::Parse(std::string_view text, std::string_view origin) {
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(origin), ": not a JSON object"));
  }
  const JsonFields fields(root, origin);
  ModelShape shape;
  if (IsMllama(fields)) {
    ASSIGN_OR_RETURN(shape, ParseMllama(fields));
    ASSIGN_OR_RETURN(const JsonFields inner, Object(fields, "text_config"));
    ASSIGN_OR_RETURN(shape.sizing_dtype, ParseDType(fields, &inner));
    return shape;
  }
  ASSIGN_OR_RETURN(shape.config, ModelConfig::Parse(text, origin));
  ASSIGN_OR_RETURN(shape.quantization, QuantizationConfig::Parse(fields));
  ASSIGN_OR_RETURN(shape.sizing_dtype, ParseDType(fields, nullptr));
  return shape;
}

std::vector<TensorSlice> ModelShape::Tensors(const ModelShard& shard) const {
  std::vector<TensorSlice> slices = ShardTensors(config, shard);
  if (computed) return slices;
  for (int64_t layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
    if (!IsCrossAttention(layer)) continue;
    MakeCrossAttention(absl::StrCat("model.layers.", layer, "."), config.head_dim, slices);
  }
  for (TensorSlice& slice : slices) slice.name = kDecoderPrefix + slice.name;
  if (!shard.first_stage) return slices;
  if (extra_embedding_rows > 0 && shard.vocab.size() > 0) {
    // The first slice is the embedding's. Every rank of the stage may have them.
    slices.front().full_rows += extra_embedding_rows;
    slices.front().rows.end += extra_embedding_rows;
  }
  slices.insert(slices.end(), vision.begin(), vision.end());
  return slices;
}

uint64_t ModelShape::NumParameters() const {
  int64_t elements = 0;
  const ModelShard all = ComputeShard(config, {.tp = 1, .pp = 1}, {});
  for (const TensorSlice& slice : Tensors(all)) elements += slice.elements();
  return static_cast<uint64_t>(elements);
}

}  // namespace trireme
