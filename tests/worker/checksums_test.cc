#include "worker/checksums.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// By sha256sum, of "{}\n", "weights\n" and "more\n".
constexpr const char* kConfig = "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356";
constexpr const char* kWeights = "1b465fa6b6bcbc06a3199e3d2d8aec35d37494a712f888b6d5536684dd89d0f0";
constexpr const char* kMore = "2396099c6c084fa4b9beac9f0d52cf3be9cf8d47040ef127883d532b5790cd74";

class ChecksumsTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    Write("config.json", "{}\n");
    Write("model-1.safetensors", "weights\n");
    Write("tokenizer.json", "not read\n");
  }
  void TearDown() override { fs::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name, std::ios::binary) << text;
  }
  std::string Message(const fs::path& model, int threads = 2) {
    return std::string(VerifyChecksums(model, threads).message());
  }

  // Of this test alone: others run beside it.
  const fs::path dir_ = fs::path(testing::TempDir()) / absl::StrCat("checksums_test_", getpid());
  const std::string good_ = std::string(kConfig) + "  config.json\n" + kWeights +
                            " *model-1.safetensors\n" + kMore + "  elsewhere\n";
};

TEST_F(ChecksumsTest, FilesAsListedAreFine) {
  Write("SHA256SUMS", good_);
  EXPECT_EQ(Message(dir_), "");
  EXPECT_EQ(Message(dir_, 1), "");
}

TEST_F(ChecksumsTest, NamesTheFileThatDiffers) {
  Write("SHA256SUMS", good_);
  Write("model-1.safetensors", "Weights\n");
  EXPECT_THAT(Message(dir_), HasSubstr("model-1.safetensors: its SHA-256 is "));
  EXPECT_THAT(Message(dir_), HasSubstr(std::string("but SHA256SUMS has ") + kWeights));
}

TEST_F(ChecksumsTest, NamesTheFileThatIsNotListed) {
  Write("SHA256SUMS", good_);
  Write("model-2.safetensors", "weights\n");
  EXPECT_THAT(Message(dir_), HasSubstr("model-2.safetensors: not listed"));
}

TEST_F(ChecksumsTest, SaysWhatIsMissing) {
  EXPECT_THAT(Message(dir_), HasSubstr("SHA256SUMS: missing"));
  EXPECT_NE(Message(dir_ / "none"), "");
}

TEST_F(ChecksumsTest, RefusesOtherLines) {
  for (const std::string line : {"0123  config.json", "config.json", " "}) {
    Write("SHA256SUMS", good_ + line + "\n");
    EXPECT_THAT(Message(dir_), HasSubstr("SHA256SUMS:4: not a line of sha256sum")) << line;
  }
}

TEST_F(ChecksumsTest, OfAGgufFileAllParts) {
  Write("m-00001-of-00002.gguf", "weights\n");
  Write("m-00002-of-00002.gguf", "more\n");
  Write("other.gguf", "weights\n");
  Write("SHA256SUMS",
        std::string(kWeights) + "  m-00001-of-00002.gguf\n" + kMore + "  m-00002-of-00002.gguf\n");
  EXPECT_EQ(Message(dir_ / "m-00001-of-00002.gguf"), "");
  Write("m-00002-of-00002.gguf", "More\n");
  EXPECT_THAT(Message(dir_ / "m-00001-of-00002.gguf"), HasSubstr("m-00002-of-00002.gguf: its"));
  EXPECT_THAT(Message(dir_ / "other.gguf"), HasSubstr("other.gguf: not listed"));
}

}  // namespace
}  // namespace trireme
