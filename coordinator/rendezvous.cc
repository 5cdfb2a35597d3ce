#include "coordinator/rendezvous.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr size_t kGangsMax = 256;
constexpr uint32_t kWorldSizeMax = 1024;
constexpr size_t kWaitingMax = 16384;
constexpr size_t kNameMax = 64;
constexpr size_t kHostMax = 255;
constexpr size_t kAddressMax = 4096;
constexpr int kSettingsMax = 32;
constexpr size_t kSettingMax = 256;

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

bool IsName(const std::string& text) {
  return !text.empty() && text.size() <= kNameMax &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

// What goes into messages and logs.
bool IsPrintable(const std::string& text, size_t size_max) {
  return text.size() <= size_max && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isprint(c);
         });
}

absl::Status CheckRequest(const v1::JoinRequest& request) {
  if (!IsName(request.gang())) {
    return Bad(absl::StrCat("--gang must be 1 to ", kNameMax, " letters, digits, '-', '_' or '.'"));
  }
  if (request.world_size() < 1 || request.world_size() > kWorldSizeMax) {
    return Bad(absl::StrCat("gang ", request.gang(), ": ", request.world_size(),
                            " ranks; it must be from 1 to ", kWorldSizeMax));
  }
  if (request.has_rank() && request.rank() >= request.world_size()) {
    return Bad(absl::StrCat("gang ", request.gang(), ": --rank ", request.rank(), " of ",
                            request.world_size(), " ranks, which count from 0"));
  }
  if (request.host().empty() || !IsPrintable(request.host(), kHostMax)) {
    return Bad(absl::StrCat("the host must have a name of 1 to ", kHostMax, " ASCII characters"));
  }
  if (request.address().empty() || request.address().size() > kAddressMax) {
    return Bad(absl::StrCat("an address of ", request.address().size(), " bytes; from 1 to ",
                            kAddressMax, " are accepted"));
  }
  const auto& settings = request.settings();
  if (settings.size() > kSettingsMax ||
      std::any_of(settings.begin(), settings.end(), [](const v1::Setting& setting) {
        return !IsPrintable(setting.name(), kSettingMax) ||
               !IsPrintable(setting.value(), kSettingMax);
      })) {
    return Bad(absl::StrCat("more than ", kSettingsMax, " settings, or one that is not of at most ",
                            kSettingMax, " ASCII characters"));
  }
  return absl::OkStatus();
}

absl::Status Differs(const v1::JoinRequest& mine, const v1::JoinRequest& other,
                     const std::string& what, const std::string& my_value,
                     const std::string& other_value) {
  const auto value = [](const std::string& text) { return text.empty() ? "none" : text; };
  return absl::FailedPreconditionError(
      absl::StrCat("gang ", mine.gang(), ": ", what, " is ", value(my_value), " on ", mine.host(),
                   " but ", value(other_value), " on ", other.host(),
                   ", which joined before; all ranks of a gang need the same"));
}

// Whether a rank asks once more: it was started anew, and nobody has heard yet that the one before
// is gone, or cut off with its host.
bool IsSameRank(const v1::JoinRequest& mine, const v1::JoinRequest& other) {
  return mine.has_rank() && other.has_rank() && mine.rank() == other.rank() &&
         mine.host() == other.host();
}

absl::Status CheckAgree(const v1::JoinRequest& mine, const v1::JoinRequest& other) {
  const int common = std::min(mine.settings_size(), other.settings_size());
  for (int i = 0; i < common; ++i) {
    const v1::Setting& a = mine.settings(i);
    const v1::Setting& b = other.settings(i);
    if (a.may_differ() && b.may_differ()) continue;
    if (a.name() != b.name()) return Differs(mine, other, "a setting's name", a.name(), b.name());
    if (a.value() != b.value()) return Differs(mine, other, a.name(), a.value(), b.value());
  }
  if (mine.settings_size() != other.settings_size()) {
    return Differs(mine, other, "the number of settings", absl::StrCat(mine.settings_size()),
                   absl::StrCat(other.settings_size()));
  }
  if (mine.world_size() != other.world_size()) {
    return Differs(mine, other, "the number of ranks", absl::StrCat(mine.world_size()),
                   absl::StrCat(other.world_size()));
  }
  if (mine.has_rank() && other.has_rank() && mine.rank() == other.rank()) {
    return absl::FailedPreconditionError(absl::StrCat("gang ", mine.gang(), ": --rank ",
                                                      mine.rank(), " is taken by ", other.host(),
                                                      " and wanted by ", mine.host(), ", too"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t Rendezvous::waiting() const {
  size_t count = 0;
  for (const auto& [name, gang] : gangs_) count += gang.size();
  return count;
}

std::vector<v1::WaitingGang> Rendezvous::List() const {
  std::vector<v1::WaitingGang> list;
  for (const auto& [name, gang] : gangs_) {
    v1::WaitingGang& waiting = list.emplace_back();
    const uint32_t world_size = gang.begin()->second.world_size();
    waiting.set_name(name);
    waiting.set_world_size(world_size);
    waiting.set_joined(static_cast<uint32_t>(gang.size()));
    std::set<uint32_t> asked;
    std::set<std::string_view> hosts;
    for (const auto& [member, request] : gang) {
      if (request.has_rank()) asked.insert(request.rank());
      hosts.insert(request.host());
    }
    for (const std::string_view host : hosts) waiting.add_hosts(std::string(host));
    if (asked.size() < gang.size()) continue;
    for (uint32_t rank = 0; rank < world_size; ++rank) {
      if (!asked.contains(rank)) waiting.add_missing_ranks(rank);
    }
  }
  return list;
}

absl::Status Rendezvous::CheckFits(const v1::JoinRequest& request) const {
  RETURN_IF_ERROR(CheckRequest(request));
  const auto gang = gangs_.find(request.gang());
  if (waiting() >= kWaitingMax || (gang == gangs_.end() && gangs_.size() >= kGangsMax)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("too many workers wait for their gangs: ", waiting(), " of ", kWaitingMax,
                     ", in ", gangs_.size(), " gangs of ", kGangsMax));
  }
  if (gang == gangs_.end()) return absl::OkStatus();
  for (const auto& [member, other] : gang->second) {
    if (!IsSameRank(request, other)) RETURN_IF_ERROR(CheckAgree(request, other));
  }
  return absl::OkStatus();
}

std::vector<Rendezvous::Answer> Rendezvous::Join(uint64_t member, v1::JoinRequest request) {
  std::vector<Answer> answers;
  if (const absl::Status status = CheckFits(request); !status.ok()) {
    answers.push_back({member, status});
    return answers;
  }
  const std::string name = request.gang();
  const size_t world_size = request.world_size();
  Gang& gang = gangs_[name];
  const auto before = std::find_if(gang.begin(), gang.end(), [&](const auto& entry) {
    return IsSameRank(request, entry.second);
  });
  if (before != gang.end()) {
    answers.push_back(
        {before->first, absl::AbortedError(absl::StrCat(
                            "gang ", name, ": another worker on ", request.host(),
                            " has taken the place of this one, --rank ", request.rank()))});
    gang.erase(before);
  }
  gang.emplace(member, std::move(request));
  if (gang.size() < world_size) return answers;
  const Gang complete = std::move(gang);
  gangs_.erase(name);
  for (Answer& answer : Complete(complete)) answers.push_back(std::move(answer));
  return answers;
}

// Ranks that are asked for are given; the others are dealt out host by host, so that neighbours,
// the ranks of one tensor parallel group, are on one host.
std::vector<Rendezvous::Answer> Rendezvous::Complete(const Gang& gang) {
  std::vector<uint64_t> members(gang.size());  // by rank; 0: nobody's yet
  std::vector<bool> taken(gang.size());
  std::vector<std::pair<std::string_view, uint64_t>> others;  // (host, member)
  for (const auto& [member, request] : gang) {
    if (request.has_rank()) {
      members[request.rank()] = member;
      taken[request.rank()] = true;
    } else {
      others.emplace_back(request.host(), member);
    }
  }
  std::sort(others.begin(), others.end());
  size_t rank = 0;
  for (const auto& [host, member] : others) {
    while (taken[rank]) ++rank;
    members[rank++] = member;
  }
  v1::JoinResponse response;
  response.set_incarnation(++incarnations_);
  for (const uint64_t member : members) {
    const v1::JoinRequest& request = gang.at(member);
    v1::Member& entry = *response.add_members();
    entry.set_host(request.host());
    entry.set_address(request.address());
  }
  std::vector<Answer> answers;
  for (rank = 0; rank < members.size(); ++rank) {
    response.set_rank(static_cast<uint32_t>(rank));
    answers.push_back({members[rank], response});
  }
  return answers;
}

void Rendezvous::Leave(uint64_t member) {
  for (auto it = gangs_.begin(); it != gangs_.end(); ++it) {
    if (it->second.erase(member) == 0) continue;
    if (it->second.empty()) gangs_.erase(it);
    return;
  }
}

}  // namespace trireme
