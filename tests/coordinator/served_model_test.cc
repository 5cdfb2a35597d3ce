// What the coordinator takes of a model in one file; each part has its own tests.

#include "coordinator/served_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/gguf_writer.h"

namespace trireme {
namespace {

TEST(ServedModelTest, TakesEverythingOutOfAGgufFile) {
  GgufWriter writer;
  writer.Text("general.architecture", "llama").Uint("llama.block_count", 1);
  writer.Uint("llama.embedding_length", 64).Uint("llama.feed_forward_length", 96);
  writer.Uint("llama.attention.head_count", 4).Uint("llama.context_length", 512);
  writer.Float("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  writer.Floats("token_embd.weight", {64, 6});
  writer.Text("tokenizer.ggml.model", "t5");
  writer.Texts("tokenizer.ggml.tokens", {"<pad>", "</s>", "<unk>", "▁", "a", "▁a"});
  writer.List<float>("tokenizer.ggml.scores", kGgufFloat32, {0, 0, 0, -4, -4, -3});
  writer.List<int32_t>("tokenizer.ggml.token_type", kGgufInt32, {3, 3, 2, 1, 1, 1});
  writer.Text("tokenizer.chat_template", "{{ messages[0].content }}{{ eos_token }}");
  writer.Float("general.sampling.temp", 0.5f);
  const auto path = std::filesystem::path(testing::TempDir()) / "served_model_test.gguf";
  std::ofstream(path, std::ios::binary) << writer.File();
  const auto model = ServedModel::Load(path, "");
  std::filesystem::remove(path);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "served_model_test");
  EXPECT_EQ(model->vocab_size(), 6u);
  EXPECT_EQ(*model->tokenizer.Encode(" a"), (std::vector<int32_t>{5, 1}));
  EXPECT_EQ(model->sampling.temperature, 0.5f);
  ASSERT_TRUE(model->chat_template.has_value()) << model->no_chat_template_reason;
  ChatInput input;
  input.messages = {{{"role", "user"}, {"content", "x"}}};
  EXPECT_EQ(*model->chat_template->Render(input), "x</s>");
}

}  // namespace
}  // namespace trireme
