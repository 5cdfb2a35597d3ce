#include "tests/worker/gguf_matrix.h"

#include <cstdint>
#include <cstring>
#include <fstream>

#include "base/check.h"

namespace trireme {
namespace {

constexpr uint64_t kHidden = 256, kInner = 512, kVocab = 96, kHeads = 4, kKvHeads = 2;
constexpr uint64_t kHeadDim = 64, kExperts = 4, kExpertsUsed = 2, kWindow = 8, kContext = 128;
constexpr float kEps = 1e-6f;
constexpr uint64_t kAlignment = 32;

struct Type {
  std::string name;
  uint32_t id;           // ggml_type
  uint64_t block;        // elements
  uint64_t block_bytes;  // bytes
  // f16 fields of a block and their least bits.
  std::vector<std::pair<size_t, uint16_t>> scales;
};

const std::vector<Type>& Types() {
  static const std::vector<Type> types = {
      {"F32", 0, 1, 4, {}},
      {"F16", 1, 1, 2, {}},
      {"BF16", 30, 1, 2, {}},
      {"Q4_0", 2, 32, 18, {{0, 0x22A8}}},
      {"Q4_1", 3, 32, 20, {{0, 0x22A8}, {2, 0xAE66}}},
      {"Q5_0", 6, 32, 22, {{0, 0x1EA8}}},
      {"Q5_1", 7, 32, 24, {{0, 0x1EA8}, {2, 0xAE66}}},
      {"Q8_0", 8, 32, 34, {{0, 0x128E}}},
      {"Q2_K", 10, 256, 84, {{80, 0x2019}, {82, 0x2225}}},
      {"Q3_K", 11, 256, 110, {{108, 0x1625}}},
      {"Q4_K", 12, 256, 144, {{0, 0x0CEA}, {2, 0x189C}}},
      {"Q5_K", 13, 256, 176, {{0, 0x08EA}, {2, 0x189C}}},
      {"Q6_K", 14, 256, 210, {{208, 0x0346}}},
      {"IQ4_NL", 20, 32, 18, {{0, 0x128E}}},
  };
  return types;
}

struct Model {
  std::string name;
  std::string architecture;  // general.architecture
  uint64_t layers;
  float theta;
  bool tied = false, experts = false, bias = false, qk_norm = false, gemma = false;
};

const std::vector<Model>& Models() {
  static const std::vector<Model> models = {
      {.name = "llama", .architecture = "llama", .layers = 2, .theta = 500000.0f, .tied = true},
      {.name = "mistral", .architecture = "llama", .layers = 2, .theta = 10000.0f},
      {.name = "mixtral",
       .architecture = "llama",
       .layers = 2,
       .theta = 1000000.0f,
       .experts = true},
      {.name = "qwen2",
       .architecture = "qwen2",
       .layers = 2,
       .theta = 1000000.0f,
       .tied = true,
       .bias = true},
      {.name = "qwen3", .architecture = "qwen3", .layers = 2, .theta = 1000000.0f, .qk_norm = true},
      {.name = "gemma3",
       .architecture = "gemma3",
       .layers = 7,
       .theta = 1000000.0f,
       .tied = true,
       .qk_norm = true,
       .gemma = true},
  };
  return models;
}

template <typename Entry>
const Entry& Named(const std::vector<Entry>& entries, const std::string& name) {
  for (const Entry& entry : entries) {
    if (entry.name == name) return entry;
  }
  CHECK(false);
}

struct TensorInfo {
  std::string name;
  std::vector<uint64_t> shape;  // rows first
  bool quantised;
};

std::vector<TensorInfo> Tensors(const Model& model) {
  std::vector<TensorInfo> tensors = {{"token_embd.weight", {kVocab, kHidden}, true}};
  for (uint64_t i = 0; i < model.layers; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    const auto add = [&](const char* name, std::vector<uint64_t> shape, bool quantised) {
      tensors.push_back({layer + name, std::move(shape), quantised});
    };
    add("attn_norm.weight", {kHidden}, false);
    add("attn_q.weight", {kHeads * kHeadDim, kHidden}, true);
    add("attn_k.weight", {kKvHeads * kHeadDim, kHidden}, true);
    add("attn_v.weight", {kKvHeads * kHeadDim, kHidden}, true);
    add("attn_output.weight", {kHidden, kHeads * kHeadDim}, true);
    if (model.bias) {
      add("attn_q.bias", {kHeads * kHeadDim}, false);
      add("attn_k.bias", {kKvHeads * kHeadDim}, false);
      add("attn_v.bias", {kKvHeads * kHeadDim}, false);
    }
    if (model.qk_norm) {
      add("attn_q_norm.weight", {kHeadDim}, false);
      add("attn_k_norm.weight", {kHeadDim}, false);
    }
    if (model.gemma) {
      add("post_attention_norm.weight", {kHidden}, false);
      add("post_ffw_norm.weight", {kHidden}, false);
    }
    add("ffn_norm.weight", {kHidden}, false);
    if (model.experts) {
      add("ffn_gate_inp.weight", {kExperts, kHidden}, false);
      add("ffn_gate_exps.weight", {kExperts, kInner, kHidden}, true);
      add("ffn_up_exps.weight", {kExperts, kInner, kHidden}, true);
      add("ffn_down_exps.weight", {kExperts, kHidden, kInner}, true);
    } else {
      add("ffn_gate.weight", {kInner, kHidden}, true);
      add("ffn_up.weight", {kInner, kHidden}, true);
      add("ffn_down.weight", {kHidden, kInner}, true);
    }
  }
  tensors.push_back({"output_norm.weight", {kHidden}, false});
  if (!model.tied) tensors.push_back({"output.weight", {kVocab, kHidden}, true});
  return tensors;
}

// splitmix64 from the FNV-1a hash of a text, little endian.
std::string RandomBytes(const std::string& seed_text, uint64_t count) {
  uint64_t state = 0xCBF29CE484222325;
  for (const char c : seed_text) {
    state = (state ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  }
  std::string bytes(count + 7, '\0');
  for (uint64_t at = 0; at < count; at += 8) {
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    std::memcpy(bytes.data() + at, &z, std::min<uint64_t>(8, bytes.size() - at));
  }
  bytes.resize(count);
  return bytes;
}

// Each word of the bytes becomes (word & mask) | base.
template <typename Word>
void Restrict(std::string& bytes, Word mask, Word base) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + at, sizeof(Word));
    word = static_cast<Word>((word & mask) | base);
    std::memcpy(bytes.data() + at, &word, sizeof(Word));
  }
}

std::string RandomBlocks(const std::string& seed_text, const TensorInfo& tensor, const Type& type) {
  uint64_t elements = 1;
  for (const uint64_t size : tensor.shape) elements *= size;
  std::string bytes = RandomBytes(seed_text, elements / type.block * type.block_bytes);
  if (tensor.shape.size() == 1) {
    Restrict<uint32_t>(bytes, 0x003FFFFF, 0x3F800000);  // 1 to 1.5
  } else if (type.name == "F32") {
    Restrict<uint32_t>(bytes, 0x80FFFFFF, 0x3C000000);
  } else if (type.name == "BF16") {
    Restrict<uint16_t>(bytes, 0x80FF, 0x3C00);
  } else if (type.name == "F16") {
    Restrict<uint16_t>(bytes, 0x87FF, 0x2800);
  }
  for (const auto& [offset, least] : type.scales) {
    for (size_t at = offset; at < bytes.size(); at += type.block_bytes) {
      const auto bits = static_cast<uint16_t>(least + (static_cast<uint8_t>(bytes[at]) & 0x7F));
      std::memcpy(bytes.data() + at, &bits, sizeof(bits));
    }
  }
  return bytes;
}

// A GGUF file in the making.
class Writer {
 public:
  template <typename T>
  void Number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void String(const std::string& value) {
    Number<uint64_t>(value.size());
    text_ += value;
  }
  void KeyString(const std::string& key, const std::string& value) {
    String(key);
    Number<uint32_t>(8);
    String(value);
  }
  void KeyU32(const std::string& key, uint64_t value) {
    String(key);
    Number<uint32_t>(4);
    Number(static_cast<uint32_t>(value));
  }
  void KeyF32(const std::string& key, float value) {
    String(key);
    Number<uint32_t>(6);
    Number(value);
  }
  void Bytes(const std::string& bytes) { text_ += bytes; }
  void Align() { text_.resize((text_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string Metadata(const Model& model, uint64_t* count) {
  Writer writer;
  const std::string prefix = model.architecture + ".";
  *count = 13;
  writer.KeyString("general.architecture", model.architecture);
  writer.KeyU32(prefix + "context_length", kContext);
  writer.KeyU32(prefix + "embedding_length", kHidden);
  writer.KeyU32(prefix + "block_count", model.layers);
  writer.KeyU32(prefix + "feed_forward_length", kInner);
  writer.KeyU32(prefix + "attention.head_count", kHeads);
  writer.KeyU32(prefix + "attention.head_count_kv", kKvHeads);
  writer.KeyU32(prefix + "attention.key_length", kHeadDim);
  writer.KeyU32(prefix + "attention.value_length", kHeadDim);
  writer.KeyF32(prefix + "attention.layer_norm_rms_epsilon", kEps);
  writer.KeyF32(prefix + "rope.freq_base", model.theta);
  writer.KeyU32(prefix + "vocab_size", kVocab);
  writer.KeyString("tokenizer.ggml.model", "none");
  if (model.experts) {
    *count += 2;
    writer.KeyU32(prefix + "expert_count", kExperts);
    writer.KeyU32(prefix + "expert_used_count", kExpertsUsed);
  }
  if (model.gemma) {
    *count += 1;
    writer.KeyU32(prefix + "attention.sliding_window", kWindow);
  }
  return writer.text();
}

template <typename Entry>
std::vector<std::string> Names(const std::vector<Entry>& entries) {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.push_back(entry.name);
  return names;
}

}  // namespace

std::vector<std::string> GgufMatrixModels() { return Names(Models()); }
std::vector<std::string> GgufMatrixTypes() { return Names(Types()); }

void WriteGgufMatrixModel(const std::filesystem::path& path, const std::string& model_name,
                          const std::string& type_name) {
  const Model& model = Named(Models(), model_name);
  const Type& wanted = Named(Types(), type_name);
  const std::vector<TensorInfo> tensors = Tensors(model);
  uint64_t metadata_count = 0;
  const std::string metadata = Metadata(model, &metadata_count);
  Writer header;
  Writer data;
  header.Bytes("GGUF");
  header.Number<uint32_t>(3);
  header.Number<uint64_t>(tensors.size());
  header.Number<uint64_t>(metadata_count);
  header.Bytes(metadata);
  for (const TensorInfo& tensor : tensors) {
    const Type& type = tensor.quantised ? wanted : Types().front();
    header.String(tensor.name);
    header.Number(static_cast<uint32_t>(tensor.shape.size()));
    // Columns first.
    for (size_t i = tensor.shape.size(); i-- > 0;) header.Number<uint64_t>(tensor.shape[i]);
    header.Number<uint32_t>(type.id);
    header.Number<uint64_t>(data.text().size());
    const std::string seed = model_name + "/" + type_name + "/" + tensor.name;
    data.Bytes(RandomBlocks(seed, tensor, type));
    data.Align();
  }
  header.Align();
  std::ofstream file(path, std::ios::binary);
  file << header.text() << data.text();
  CHECK(file.good());
}

}  // namespace trireme
