#include "parallel/gguf_file.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/gguf_writer.h"

namespace {
std::atomic<uint64_t> allocated_bytes = 0;  // since the start, freed or not
}  // namespace

// GCC warns of what it sees of them.
[[gnu::noinline]] void* operator new(size_t bytes) {
  allocated_bytes += bytes;
  if (void* data = std::malloc(bytes)) return data;
  std::abort();
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace trireme {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(TRIREME_SOURCE_DIR) / "tests/golden/gguf";

absl::StatusOr<GgufFile> ParseText(const std::string& file) {
  return GgufFile::Parse(AsBytes(file), "test.gguf");
}

// Parsing fails with one line that names the file and says `what`.
void ExpectRefused(const std::string& file, const std::string& what) {
  const absl::Status status = ParseText(file).status();
  ASSERT_FALSE(status.ok()) << what;
  const std::string message(status.message());
  EXPECT_NE(message.find(what), std::string::npos) << message << "\nwithout: " << what;
  EXPECT_TRUE(message.starts_with("test.gguf: ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

GgufWriter Small() {
  GgufWriter writer;
  writer.Text("general.architecture", "llama").Uint("n", 7);
  writer.Floats("m", {3, 2}).Floats("v", {5}, 100);
  return writer;
}

TEST(GgufFileTest, ReadsEveryTypeOfValue) {
  GgufWriter writer;
  writer.Raw("u8", kGgufUint8, Bytes(uint8_t{200}))
      .Raw("i8", kGgufInt8, Bytes(int8_t{-5}))
      .Raw("u16", kGgufUint16, Bytes(uint16_t{60000}))
      .Raw("i16", kGgufInt16, Bytes(int16_t{-300}))
      .Raw("u32", kGgufUint32, Bytes(uint32_t{4000000000}))
      .Raw("i32", kGgufInt32, Bytes(int32_t{-70000}))
      .Raw("u64", kGgufUint64, Bytes(uint64_t{INT64_MAX}))
      .Raw("i64", kGgufInt64, Bytes(int64_t{INT64_MIN}))
      .Float("f32", 1.5f)
      .Raw("f64", kGgufFloat64, Bytes(0.1))
      .Bool("yes", true)
      .Bool("no", false)
      .Text("text", std::string_view("a\0b", 3))
      .Texts("texts", {"", "one", "two"})
      .List<int8_t>("small", kGgufInt8, {-1, 2})
      .List<uint64_t>("large", kGgufUint64, {uint64_t{INT64_MAX}})
      .List<float>("reals", kGgufFloat32, {0.5f, -2.0f})
      .List<uint8_t>("flags", kGgufBool, {1, 0, 1});
  const std::string text = writer.File();
  const auto file = ParseText(text);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->Find("u8"), GgufValue(int64_t{200}));
  EXPECT_EQ(*file->Find("i8"), GgufValue(int64_t{-5}));
  EXPECT_EQ(*file->Find("u16"), GgufValue(int64_t{60000}));
  EXPECT_EQ(*file->Find("i16"), GgufValue(int64_t{-300}));
  EXPECT_EQ(*file->Find("u32"), GgufValue(int64_t{4000000000}));
  EXPECT_EQ(*file->Find("i32"), GgufValue(int64_t{-70000}));
  EXPECT_EQ(*file->Find("u64"), GgufValue(int64_t{INT64_MAX}));
  EXPECT_EQ(*file->Find("i64"), GgufValue(int64_t{INT64_MIN}));
  EXPECT_EQ(*file->Find("f32"), GgufValue(1.5));
  EXPECT_EQ(*file->Find("f64"), GgufValue(0.1));
  EXPECT_EQ(*file->Find("yes"), GgufValue(true));
  EXPECT_EQ(*file->Find("no"), GgufValue(false));
  EXPECT_EQ(*file->Find("text"), GgufValue(std::string_view("a\0b", 3)));
  EXPECT_EQ(*file->Flags("flags"), (std::vector<uint8_t>{1, 0, 1}));
  EXPECT_EQ(*file->Flags("small"), (std::vector<uint8_t>{1, 1}));
  EXPECT_EQ(file->Find("absent"), nullptr);
  const auto texts = *file->Strings("texts");
  EXPECT_EQ(std::vector<std::string_view>(texts.begin(), texts.end()),
            (std::vector<std::string_view>{"", "one", "two"}));
  const auto small = *file->Wholes("small");
  EXPECT_EQ(std::vector<int64_t>(small.begin(), small.end()), (std::vector<int64_t>{-1, 2}));
  EXPECT_EQ(file->Wholes("large")->front(), INT64_MAX);
  EXPECT_EQ(file->Reals("reals")->back(), -2.0);
  EXPECT_TRUE(file->Strings("absent")->empty());
}

TEST(GgufFileTest, TypedAccessIsBoundedAndNamesTheKey) {
  GgufWriter writer;
  writer.Uint("n", 7).Text("text", "seven").Float("x", 2.5f);
  const std::string text = writer.File();
  const auto file = *ParseText(text);
  EXPECT_EQ(*file.Whole("n", 1, 7), 7);
  EXPECT_EQ(*file.Whole("absent", 1, 7, 3), 3);
  EXPECT_EQ(*file.Real("x", 0, 3), 2.5);
  EXPECT_EQ(*file.Real("n", 0, 10), 7.0);
  EXPECT_EQ(*file.String("text"), "seven");
  EXPECT_EQ(*file.String("absent", "other"), "other");
  EXPECT_TRUE(*file.Bool("absent", true));
  EXPECT_EQ(file.Whole("n", 8, 9).status().message(),
            "test.gguf: n is 7; it must be a whole number from 8 to 9");
  EXPECT_EQ(file.Whole("text", 0, 9).status().message(),
            "test.gguf: text is \"seven\"; it must be a whole number from 0 to 9");
  EXPECT_EQ(file.Whole("absent", 0, 9).status().message(),
            "test.gguf: absent is missing; it must be a whole number from 0 to 9");
  EXPECT_EQ(file.String("n").status().message(), "test.gguf: n is 7; it must be a string");
  EXPECT_EQ(file.Strings("text").status().message(),
            "test.gguf: text is \"seven\"; it must be a list of strings");
  EXPECT_FALSE(file.Bool("n", true).ok());
  EXPECT_FALSE(file.Real("x", 3, 4).ok());
  EXPECT_FALSE(file.String("absent").ok());
}

TEST(GgufFileTest, TensorsAreViewsInRowMajorOrder) {
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer = Small();
    writer.version = version;
    const std::string text = writer.File();
    const auto file = ParseText(text);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ(file->tensors().size(), 2u);
    const GgufTensor* m = file->FindTensor("m");
    ASSERT_NE(m, nullptr);
    EXPECT_EQ(m->shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(m->data.size(), 24u);
    float last = 0;
    std::memcpy(&last, m->data.data() + 20, sizeof(last));
    EXPECT_EQ(last, 5.0f);
    EXPECT_EQ(file->FindTensor("absent"), nullptr);
  }
}

TEST(GgufFileTest, AlignmentIsTheFilesOwn) {
  GgufWriter writer = Small();
  writer.Uint("general.alignment", 64);
  writer.alignment = 64;
  const std::string text = writer.File();
  const auto file = ParseText(text);
  ASSERT_TRUE(file.ok()) << file.status();
  float first = 0;
  std::memcpy(&first, file->FindTensor("v")->data.data(), sizeof(first));
  EXPECT_EQ(first, 100.0f);

  for (const uint32_t wrong : {0u, 3u, 48u, 0x80000000u}) {
    GgufWriter bad = Small();
    bad.Uint("general.alignment", wrong);
    ExpectRefused(bad.File(), "general.alignment must be a power of two");
  }
  GgufWriter text_value = Small();
  text_value.Text("general.alignment", "32");
  ExpectRefused(text_value.File(), "general.alignment must be a power of two");
  GgufWriter shifted = Small();
  shifted.tensors[1].offset = 40;
  ExpectRefused(shifted.File(), "tensor \"v\" begins at byte 40");
}

TEST(GgufFileTest, BlocksDecideTheSizeOfATensor) {
  GgufWriter writer;
  writer.Add("q", {64, 3}, 8, std::string(3 * 2 * 34, '\1'));     // Q8_0
  writer.Add("k", {512, 2}, 12, std::string(2 * 2 * 144, '\2'));  // Q4_K
  writer.Add("iq", {256}, 17, std::string(74, '\3'));             // IQ2_XS, which we only size
  writer.Add("new", {7}, 12345, "");                              // of no size that we know
  const std::string text = writer.File();
  const auto file = ParseText(text);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->FindTensor("q")->data.size(), 204u);
  EXPECT_EQ(file->FindTensor("k")->data.size(), 576u);
  EXPECT_EQ(file->FindTensor("iq")->data.size(), 74u);
  EXPECT_EQ(file->FindTensor("new")->data.size(), 0u);
  EXPECT_EQ(GgufTypeName(12), "Q4_K");
  EXPECT_EQ(GgufTypeName(12345), "type 12345");

  GgufWriter broken;
  broken.Add("q", {33, 1}, 8, std::string(68, '\0'));
  ExpectRefused(broken.File(), "tensor \"q\" has rows of 33 elements, which is no multiple");
}

TEST(GgufFileTest, RefusesWhatIsNoGguf) {
  ExpectRefused("", "not a GGUF file");
  ExpectRefused("GGU", "not a GGUF file");
  ExpectRefused("PK\3\4 and so on", "not a GGUF file");
  ExpectRefused("GGUF", "ends inside its header");
  GgufWriter writer = Small();
  writer.version = 1;
  ExpectRefused(writer.File(), "unsupported: GGUF version 1; supported are 2 and 3");
  writer.version = 0x03000000;
  ExpectRefused(writer.File(), "unsupported: big-endian GGUF");
}

TEST(GgufFileTest, RefusesAbsurdCountsBeforeItAllocates) {
  for (const uint64_t absurd :
       {uint64_t{1} << 20, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX}) {
    GgufWriter writer = Small();
    writer.metadata_count = absurd;
    ExpectRefused(writer.File(), "metadata keys, but has only");
    writer = Small();
    writer.tensor_count = static_cast<int64_t>(absurd >> 1);
    ExpectRefused(writer.File(), "tensors, but has only");
    for (const uint32_t type : {kGgufUint8, kGgufFloat64, kGgufBool, kGgufString}) {
      writer = Small();
      writer.Raw("list", kGgufArray, Bytes(type, absurd));
      ExpectRefused(writer.File(), "\"list\" claims");
    }
    writer = Small();
    writer.Raw("text", kGgufString, Bytes(absurd));
    ExpectRefused(writer.File(), "ends inside the value of \"text\"");
    writer = Small();
    writer.Raw("texts", kGgufArray, Bytes(uint32_t{kGgufString}, uint64_t{1}, absurd));
    ExpectRefused(writer.File(), "ends inside the value of \"texts\"");
  }
  // A tensor's name.
  ExpectRefused("GGUF" + Bytes(uint32_t{3}, uint64_t{1}, uint64_t{0}, uint64_t{1} << 63) +
                    std::string(64, 'x'),
                "ends inside tensor 1 of 1");
  GgufWriter writer;
  writer.metadata = Bytes(uint64_t{1} << 63) + "key and more bytes behind it";
  writer.metadata_count = 1;
  ExpectRefused(writer.File(), "ends inside metadata key 1 of 1");
}

// Files that are all header, and lists of what is far larger in memory than there.
TEST(GgufFileTest, AHeaderTakesNoMoreMemoryThanItsFile) {
  constexpr uint64_t kMany = 24 << 20;
  const std::string zeros(kMany, '\0');
  const auto list = [&](uint32_t type, uint64_t bytes) {
    GgufWriter writer;
    writer.Raw("list", kGgufArray, Bytes(type, kMany / bytes) + zeros);
    return writer.File();
  };
  GgufWriter keys;
  for (int i = 0; i < 65536; ++i) keys.Raw(std::to_string(i), kGgufUint8, Bytes(uint8_t{1}));
  for (const std::string& file : {list(kGgufUint8, 1), list(kGgufBool, 1), list(kGgufFloat32, 4),
                                  list(kGgufString, 8), keys.File()}) {
    const uint64_t before = allocated_bytes;
    const auto parsed = ParseText(file);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_LT(allocated_bytes - before, 16 << 20) << file.size();
  }
  ExpectRefused(keys.Uint("one more", 1).File(), "65537 metadata keys and 0 tensors");
}

TEST(GgufFileTest, RefusesWrongValuesWithTheirKey) {
  const auto with = [](uint32_t type, const std::string& bytes) {
    GgufWriter writer = Small();
    writer.Raw("bad.key", type, bytes);
    return writer.File();
  };
  ExpectRefused(with(13, Bytes(uint64_t{0})), "\"bad.key\" has values of unknown type 13");
  ExpectRefused(with(UINT32_MAX, ""), "\"bad.key\" has values of unknown type 4294967295");
  ExpectRefused(with(kGgufArray, Bytes(uint32_t{99}, uint64_t{0})), "unknown type 99");
  ExpectRefused(with(kGgufBool, Bytes(uint8_t{2})), "\"bad.key\" has 2 where true is 1");
  ExpectRefused(with(kGgufArray, Bytes(uint32_t{kGgufBool}, uint64_t{2}, uint8_t{1}, uint8_t{3})),
                "\"bad.key\" has 3 where true is 1");
  ExpectRefused(with(kGgufUint64, Bytes(UINT64_MAX)), "a whole number above 2^63 - 1");
  ExpectRefused(with(kGgufArray, Bytes(uint32_t{kGgufUint64}, uint64_t{1}, UINT64_MAX)),
                "a whole number above 2^63 - 1");
  ExpectRefused(
      with(kGgufArray, Bytes(uint32_t{kGgufArray}, uint64_t{1}, uint32_t{kGgufUint8}, uint64_t{0})),
      "unsupported: \"bad.key\" is a list of lists");
  // As deep as the file is long: refused at the first level.
  std::string deep;
  for (int i = 0; i < 10000; ++i) deep += Bytes(uint32_t{kGgufArray}, uint64_t{1});
  ExpectRefused(with(kGgufArray, deep), "is a list of lists");
  ExpectRefused(Small().Uint("n", 8).File(), "it has the key \"n\" twice");
  ExpectRefused(Small().Uint("", 8).File(), "metadata key 3 has no name");
  ExpectRefused(Small().Raw("line\nbreak", 99, "").File(), "\"line\\nbreak\" has values");
}

TEST(GgufFileTest, RefusesWrongTensorsWithTheirName) {
  const auto with = [](std::vector<uint64_t> dims, int64_t offset, std::string name = "bad") {
    GgufWriter writer = Small();
    writer.Add(std::move(name), std::move(dims), 0, std::string(64, '\0'));
    writer.tensors.back().offset = offset;
    return writer.File();
  };
  EXPECT_TRUE(ParseText(with({16}, -1)).ok());
  ExpectRefused(with({}, -1), "tensor \"bad\" has 0 dimensions, expected 1 to 4");
  ExpectRefused(with({1, 1, 1, 1, 1}, -1), "tensor \"bad\" has 5 dimensions");
  ExpectRefused(with({4, 0}, -1), "tensor \"bad\" has an impossible shape");
  ExpectRefused(with({UINT64_MAX}, -1), "tensor \"bad\" has an impossible shape");
  ExpectRefused(with({uint64_t{1} << 32, uint64_t{1} << 32}, -1), "has an impossible shape");
  ExpectRefused(with({uint64_t{1} << 63, 2}, -1), "tensor \"bad\" has an impossible shape");
  ExpectRefused(with({1 << 20}, -1), "tensor \"bad\" has 4194304 bytes at byte");
  ExpectRefused(with({16}, 1 << 20), "tensor \"bad\" has 64 bytes at byte 1048576 of");
  ExpectRefused(with({16}, INT64_MAX / 32 * 32), "tensor \"bad\" has 64 bytes at byte");
  ExpectRefused(with({16}, 0), "the tensors \"m\" and \"bad\" overlap");
  ExpectRefused(with({16}, 32), "the tensors \"v\" and \"bad\" overlap");
  ExpectRefused(with({16}, -1, "m"), "it has the tensor \"m\" twice");
  ExpectRefused(with({16}, -1, ""), "tensor 3 has no name");
}

TEST(GgufFileTest, RefusesEveryTruncation) {
  GgufWriter writer = Small();
  writer.Texts("texts", {"one", "two"}).List<float>("reals", kGgufFloat32, {1, 2});
  const std::string whole = writer.File();
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string part = whole.substr(0, size);
    EXPECT_FALSE(ParseText(part).ok()) << size << " of " << whole.size();
  }
  EXPECT_TRUE(ParseText(whole).ok());
}

class GgufSplitTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() /
           ("trireme_gguf_" +
            std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  static GgufWriter Part(uint16_t number, uint16_t count, const std::string& tensor) {
    GgufWriter writer;
    writer.Raw("split.no", kGgufUint16, Bytes(number))
        .Raw("split.count", kGgufUint16, Bytes(count))
        .Raw("split.tensors.count", kGgufInt32, Bytes(int32_t{2}));
    writer.Floats(tensor, {4}, number);
    return writer;
  }
  void Write(const std::string& name, const GgufWriter& writer) const {
    std::ofstream(dir_ / name, std::ios::binary) << writer.File();
  }
  void ExpectRefused(const std::string& name, const std::string& what) const {
    const std::string message(GgufFile::Open(dir_ / name).status().message());
    EXPECT_NE(message.find(what), std::string::npos) << message << "\nwithout: " << what;
  }

  fs::path dir_;
};

TEST_F(GgufSplitTest, TheFirstPartHasTheTensorsOfAll) {
  Write("x-00001-of-00002.gguf", Part(0, 2, "a"));
  Write("x-00002-of-00002.gguf", Part(1, 2, "b"));
  const auto file = GgufFile::Open(dir_ / "x-00001-of-00002.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors().size(), 2u);
  const GgufFile copy = *file;  // shares the mapping
  float first = 0;
  std::memcpy(&first, copy.FindTensor("b")->data.data(), sizeof(first));
  EXPECT_EQ(first, 1.0f);
}

TEST_F(GgufSplitTest, RefusesPartsThatDoNotMakeAModel) {
  Write("x-00001-of-00002.gguf", Part(0, 2, "a"));
  ExpectRefused("x-00001-of-00002.gguf",
                "x-00002-of-00002.gguf: part 2 of 2 of the model is missing");
  Write("x-00002-of-00002.gguf", Part(1, 2, "b"));
  ExpectRefused("x-00002-of-00002.gguf", "it is part 2 of 2 of a model; give the first: ");
  Write("x-00002-of-00002.gguf", Part(0, 2, "b"));
  ExpectRefused("x-00001-of-00002.gguf", "x-00002-of-00002.gguf: split.no is 0; it must be 1");
  Write("x-00002-of-00002.gguf", Part(1, 3, "b"));
  ExpectRefused("x-00001-of-00002.gguf", "split.count is 3; it must be 2");
  Write("x-00002-of-00002.gguf", Part(1, 2, "a"));
  ExpectRefused("x-00001-of-00002.gguf", "the tensor \"a\" is there twice");
  Write("x-00002-of-00002.gguf", Part(1, 2, "b").Floats("c", {1}));
  ExpectRefused("x-00001-of-00002.gguf", "split.tensors.count is 2, but the 2 parts have 3");
  GgufWriter other;
  Write("x-00002-of-00002.gguf", other.Floats("b", {4}));
  ExpectRefused("x-00001-of-00002.gguf", "x-00002-of-00002.gguf: split.no is missing");
  std::string cut = Part(1, 2, "b").File();
  cut.pop_back();
  std::ofstream(dir_ / "x-00002-of-00002.gguf", std::ios::binary) << cut;
  ExpectRefused("x-00001-of-00002.gguf", "x-00002-of-00002.gguf: tensor \"b\" has 16 bytes");
  Write("y-00001-of-00003.gguf", Part(0, 3, "a"));
  Write("y-00003-of-00003.gguf", Part(2, 3, "b"));
  ExpectRefused("y-00001-of-00003.gguf", "y-00002-of-00003.gguf: part 2 of 3 of the model");
  Write("renamed.gguf", Part(0, 2, "a"));
  ExpectRefused("renamed.gguf", "whose names must end in -00001-of-00002.gguf");
  ExpectRefused("absent.gguf", "absent.gguf: cannot open");
}

// Written by llama.cpp's converter (tools/make_gguf_golden.py), in three parts.
TEST(GgufFileTest, ReadsPartsOfAConvertedModel) {
  const auto file = GgufFile::Open(kGolden / "qwen2-00001-of-00003.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors().size(), 38u);
  EXPECT_EQ(*file->String("general.architecture"), "qwen2");
  const GgufTensor* norm = file->FindTensor("output_norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->shape, std::vector<int64_t>{64});
}

TEST(GgufFileTest, PathsAreKnownByTheirEnding) {
  EXPECT_TRUE(IsGgufPath("models/a.gguf"));
  EXPECT_FALSE(IsGgufPath("models/a"));
  EXPECT_FALSE(IsGgufPath("gguf"));
}

}  // namespace
}  // namespace trireme
