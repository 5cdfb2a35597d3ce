#include "coordinator/text/chat_template.h"

#include <openssl/sha.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/real_models.h"
#include "tests/text/golden_files.h"

namespace trireme {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kNowUnixS = 1721995200;  // as in tools/make_chat_golden.py

// A golden case's input as ChatInput.
ChatInput MakeInput(const ordered_json& given) {
  const ordered_json json = given.is_null() ? ordered_json::object() : given;
  ChatInput input;
  input.messages = json.value("messages", ordered_json::array());
  input.tools = json.value("tools", ordered_json());
  input.extra = json.value("extra", ordered_json());
  input.add_generation_prompt = json.value("add_generation_prompt", true);
  input.now_unix_s = kNowUnixS;
  return input;
}

absl::StatusOr<std::string> Render(const std::string& source, const ordered_json& input) {
  const auto parsed = ChatTemplate::FromSource(source, "<bos>", "<eos>");
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(MakeInput(input));
}

ordered_json ReadGolden(const std::string& name) {
  return ordered_json::parse(ReadGzip(GoldenDir() / "chat" / name));
}

const ordered_json& Sources() {
  static const auto* sources = new ordered_json(
      ordered_json::parse(ReadFile(GoldenDir() / "chat" / "sources.json", 16 << 20).value()));
  return *sources;
}

std::string Sha256(const std::string& text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return absl::BytesToHexString(digest);
}

void ExpectRendering(const std::string& source, const ordered_json& input,
                     const ordered_json& golden) {
  const auto result = Render(source, input);
  if (golden.contains("expected")) {
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result.value_or(""), golden["expected"].get<std::string>());
  } else if (golden.contains("expected_sha256")) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Sha256(*result), golden["expected_sha256"].get<std::string>()) << *result;
  } else {
    EXPECT_FALSE(result.ok()) << golden["error"] << *result;
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    // What the template says itself, through raise_exception, or what it looked for in vain must
    // reach the client.
    const auto error = golden["error"].get<std::string>();
    for (const std::string_view kind : {"TemplateError: ", "UndefinedError: "}) {
      if (!error.starts_with(kind)) continue;
      EXPECT_THAT(std::string(result.status().message()),
                  testing::EndsWith(": " + error.substr(kind.size())));
    }
  }
}

void ExpectRenderings(const std::string& source, const ordered_json& golden) {
  ASSERT_EQ(Sha256(source), golden["sha256"].get<std::string>()) << "not the template rendered";
  for (const auto& [name, input] : Sources()["conversations"].items()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(golden["renderings"].contains(name));
    ExpectRendering(source, input, golden["renderings"][name]);
  }
}

// `dir` has the templates of `golden`, but for those that sources.json has.
void ExpectTemplates(const ordered_json& golden, const std::filesystem::path& dir) {
  for (const auto& [name, renderings] : golden["templates"].items()) {
    SCOPED_TRACE(name);
    std::string source;
    if (Sources()["templates"].contains(name)) {
      source = absl::StrJoin(Sources()["templates"][name].get<std::vector<std::string>>(), "\n");
    } else {
      const auto text = ReadFile(dir / (name + ".jinja"), 1 << 20);
      ASSERT_TRUE(text.ok()) << text.status();
      source = *text;
    }
    ExpectRenderings(source, renderings);
  }
}

class ChatTemplateGolden : public testing::Test {
 protected:
  void SetUp() override {
    // strftime_now is local time, and the golden files' is UTC.
    setenv("TZ", "UTC0", 1);
    tzset();
  }
};

TEST_F(ChatTemplateGolden, TemplatesRenderAsJinja2Does) {
  const ordered_json golden = ReadGolden("golden.json.gz");
  const auto dir = GoldenDir() / "chat" / "templates";
  size_t templates = Sources()["templates"].size();
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().extension() == ".jinja") ++templates;
  }
  ASSERT_EQ(golden["templates"].size(), templates);
  ExpectTemplates(golden, dir);
}

TEST_F(ChatTemplateGolden, SnippetsRenderAsJinja2Does) {
  const ordered_json golden = ReadGolden("golden.json.gz");
  const ordered_json& snippets = Sources()["snippets"];
  ASSERT_EQ(snippets.size(), golden["snippets"].size());
  for (size_t i = 0; i < snippets.size(); ++i) {
    SCOPED_TRACE(snippets[i]);
    ExpectRendering(snippets[i], Sources()["conversations"]["tools"], golden["snippets"][i]);
  }
}

// Templates that are not all ours to publish.
TEST_F(ChatTemplateGolden, FetchedTemplatesRenderAsJinja2Does) {
  const auto dir = RealModelsDir() / "templates";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << NotFetched(dir);
  ExpectTemplates(ReadGolden("fetched.json.gz"), dir);
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  const auto result = Render("a\n{% if true %}\n{{ 1 + 'x' }}\n{% endif %}", {});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("line 3: "), absl::string_view::npos) << result.status();
  const auto parsed = ChatTemplate::FromSource("a\nb\n{% frob %}", "", "");
  EXPECT_NE(parsed.status().message().find("line 3: "), absl::string_view::npos);
  const auto raised = Render("\n{{ raise_exception('no tools') }}", {});
  EXPECT_NE(raised.status().message().find("line 2: no tools"), absl::string_view::npos);
}

// Each of these would run for ever, take all memory or overflow the stack.
TEST(ChatTemplate, HostileTemplatesAreRefused) {
  std::string deep = "1";
  for (int i = 0; i < 5000; ++i) deep = "(" + deep + ")";
  std::string chain = "1";
  for (int i = 0; i < 5000; ++i) chain += "+1";
  std::string ifs;
  for (int i = 0; i < 5000; ++i) ifs += "{% if 1 %}";
  const std::string rounds = "{% for i in range(100000) %}{% for j in range(100000) %}";
  for (const std::string& source : {
           "{% set ns = namespace(x='ab') %}" + rounds +
               "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{% endfor %}",
           rounds + "{% endfor %}{% endfor %}",
           rounds + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
           std::string("{{ 'x' * 100000000000 }}"),
           std::string("{{ [1] * 100000000000 }}"),
           std::string("{{ 'x' | center(100000000000) }}"),
           std::string("{{ 'x' | indent(100000000000, true) }}"),
           std::string("{{ ('a' * 100000) | replace('', 'b' * 1000000) }}"),
           std::string("{{ range(100000) | join('b' * 1000000) }}"),
           "{% set ns = namespace(x=[]) %}" + rounds +
               "{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}",
           std::string(
               "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] "
               "%}{% endfor %}{{ ns.x == ns.x[:] }}{{ ns.x }}"),
           std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
           std::string("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"),
           "{{ " + deep + " }}",
           "{{ " + chain + " }}",
           ifs,
           "{{ " + std::string(5000, '-') + "1 }}",
           "{{ " + std::string(5000, '[') + " }}",
       }) {
    const auto result = Render(source, {});
    ASSERT_FALSE(result.ok()) << source.substr(0, 200);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatTemplate, NamespacesInACircleAreFreed) {
  const auto result = Render(
      "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a.b.a.b is "
      "defined }}{% set ns = namespace() %}{% for i in range(20000) %}{% set ns = "
      "namespace(p=ns) %}{% set a.c = [namespace(p=a.c)] %}{% endfor %}",
      {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, "True");
}

TEST(ChatTemplate, DeepJsonIsRefused) {
  ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = ordered_json::array({deep});
  EXPECT_FALSE(Render("{{ messages }}", {{"messages", deep}}).ok());
}

TEST(ChatTemplate, ReadsConfigs) {
  const auto from_string = ChatTemplate::FromConfig(
      R"({"chat_template": "{{ bos_token }}x{{ eos_token }}", "bos_token": {"content": "<s>"},
          "eos_token": "</s>"})",
      "c");
  ASSERT_TRUE(from_string.ok()) << from_string.status();
  EXPECT_EQ(*from_string->Render({}), "<s>x</s>");
  const auto from_list = ChatTemplate::FromConfig(
      R"({"chat_template": [{"name": "tool_use", "template": "t"},
                            {"name": "default", "template": "d"}]})",
      "c");
  ASSERT_TRUE(from_list.ok());
  EXPECT_EQ(*from_list->Render({}), "d");
  EXPECT_EQ(ChatTemplate::FromConfig("{}", "c").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ChatTemplate::FromConfig("[", "c").ok());
  EXPECT_FALSE(ChatTemplate::FromConfig(R"({"chat_template": "{{"})", "c").ok());
}

TEST(ChatTemplate, LoadsADirectory) {
  const std::filesystem::path dir =
      std::filesystem::path(testing::TempDir()) / "chat_template_test";
  std::filesystem::create_directories(dir);
  EXPECT_EQ(ChatTemplate::Load(dir / "none").status().code(), absl::StatusCode::kNotFound);
  std::ofstream(dir / "tokenizer_config.json")
      << R"({"chat_template": "config", "bos_token": "<s>"})";
  EXPECT_EQ(*ChatTemplate::Load(dir)->Render({}), "config");
  std::ofstream(dir / "chat_template.jinja") << "{{ bos_token }}file";
  EXPECT_EQ(*ChatTemplate::Load(dir)->Render({}), "<s>file");
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace trireme
