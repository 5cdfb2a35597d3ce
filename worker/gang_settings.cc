#include "worker/gang_settings.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_fingerprint.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/gguf_file.h"

namespace trireme {
namespace {

constexpr uint64_t kBytesMax = uint64_t{1} << 20;

// Rank 0's; the same bytes on every rank.
absl::StatusOr<v1::JoinRequest> BroadcastSettings(std::span<const v1::Setting> mine,
                                                  Communicator& world) {
  v1::JoinRequest request;
  for (const v1::Setting& setting : mine) *request.add_settings() = setting;
  std::string text = request.SerializeAsString();
  uint64_t size = text.size();
  RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(&size, 1)), 0));
  if (size > kBytesMax) {
    return absl::InternalError(absl::StrCat("rank 0 sends settings of ", size, " bytes"));
  }
  text.resize(size);
  RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(text)), 0));
  if (!request.ParseFromString(text)) {
    return absl::InternalError("rank 0 sends settings that cannot be parsed");
  }
  return request;
}

std::string Value(const std::string& value) { return value.empty() ? "none" : value; }

}  // namespace

v1::Setting MakeSetting(std::string name, std::string value) {
  v1::Setting setting;
  setting.set_name(std::move(name));
  setting.set_value(std::move(value));
  return setting;
}

v1::Setting MakeSoftSetting(std::string name, std::string value) {
  v1::Setting setting = MakeSetting(std::move(name), std::move(value));
  setting.set_may_differ(true);
  return setting;
}

absl::StatusOr<std::vector<v1::Setting>> ModelSettings(const std::string& model, bool weights) {
  std::vector<v1::Setting> settings;
  if (IsGgufPath(model)) {
    ASSIGN_OR_RETURN(std::string fingerprint, FileFingerprint(model));
    settings.push_back(MakeSetting("the GGUF file", std::move(fingerprint)));
    return settings;
  }
  for (const char* name : {"config.json", "model.safetensors.index.json", "model.safetensors"}) {
    if (!weights && name != std::string_view("config.json")) continue;
    absl::StatusOr<std::string> fingerprint = FileFingerprint(std::filesystem::path(model) / name);
    // Which of them there must be is the checkpoint reader's to say.
    if (!fingerprint.ok() && !absl::IsNotFound(fingerprint.status())) return fingerprint.status();
    settings.push_back(MakeSetting(name, std::move(fingerprint).value_or("")));
  }
  return settings;
}

absl::Status CompareSettings(const absl::StatusOr<std::vector<v1::Setting>>& mine,
                             const GangWorld& world) {
  const std::vector<v1::Setting> none;
  ASSIGN_OR_RETURN(const v1::JoinRequest first,
                   BroadcastSettings(mine.ok() ? *mine : none, *world.ranks));
  RETURN_IF_ERROR(mine.status());
  for (const v1::Setting& setting : *mine) {
    const auto other =
        std::find_if(first.settings().begin(), first.settings().end(),
                     [&setting](const v1::Setting& s) { return s.name() == setting.name(); });
    const std::string value = other == first.settings().end() ? "" : other->value();
    if (value == setting.value()) continue;
    const std::string difference =
        absl::StrCat(setting.name(), " is ", Value(setting.value()), " on ",
                     world.hosts[static_cast<size_t>(world.ranks->rank())], " but ", Value(value),
                     " on ", world.hosts.front());
    if (!setting.may_differ()) {
      return absl::FailedPreconditionError(
          absl::StrCat(difference, " (rank 0); all ranks of a gang need the same"));
    }
    LogWarning(absl::StrCat(difference, " (rank 0), which may be slow or not meant"));
  }
  return absl::OkStatus();
}

}  // namespace trireme
