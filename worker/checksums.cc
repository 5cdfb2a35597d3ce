#include "worker/checksums.h"

#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/gguf_file.h"
#include "worker/read_ahead.h"
#include "worker/sha256_sums.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSums = "SHA256SUMS";
constexpr size_t kSumsBytesMax = size_t{1} << 20;
constexpr size_t kPieceBytes = size_t{1} << 20;

absl::StatusOr<Sha256Sums> ReadSums(const fs::path& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kSumsBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(
        path.string(),
        ": missing; --verify-checksum compares with it. Fetch it with the model, or ",
        "write it where the files are right: sha256sum *.json *.safetensors > ", kSums));
  }
  RETURN_IF_ERROR(text.status());
  return ParseSha256Sums(*text, path.string());
}

// "NAME-00001-of-00003.gguf" without its number: what it has in common with the other parts.
std::string PartsName(const std::string& name) {
  const size_t of = name.rfind("-of-");
  if (of == std::string::npos || of < 6 || name[of - 6] != '-') return name;
  return absl::StrCat(name.substr(0, of - 6), name.substr(of));
}

absl::StatusOr<std::vector<fs::path>> FilesOf(const fs::path& model) {
  const bool gguf = IsGgufPath(model);
  const fs::path directory = gguf ? model.parent_path() : model;
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(directory.empty() ? "." : directory, error), end;
       !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool wanted = gguf ? PartsName(name) == PartsName(model.filename().string())
                             : name == "config.json" || name.ends_with(".safetensors") ||
                                   name.ends_with(".safetensors.index.json");
    if (wanted) files.push_back(directory / name);
  }
  if (error) {
    return absl::NotFoundError(absl::StrCat(directory.string(), ": ", error.message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<std::string> Sha256(const fs::path& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   &EVP_MD_CTX_free);
  bool fine = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  std::vector<ReadAhead::Stretches> pieces;
  for (auto rest = file.bytes(); !rest.empty();) {
    pieces.push_back({rest.first(std::min(rest.size(), kPieceBytes))});
    rest = rest.subspan(pieces.back().front().size());
  }
  ReadAhead read_ahead(pieces);
  for (size_t i = 0; i < pieces.size() && fine; ++i) {
    read_ahead.Begin(i);
    const std::span<const std::byte> piece = pieces[i].front();
    fine = EVP_DigestUpdate(context.get(), piece.data(), piece.size()) == 1;
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  fine = fine && EVP_DigestFinal_ex(context.get(), digest, &size) == 1;
  if (!fine) return absl::InternalError("OpenSSL cannot compute a SHA-256");
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), size));
}

absl::Status Verify(const fs::path& file, const Sha256Sums& sums) {
  const auto found = sums.find(file.filename().string());
  if (found == sums.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": not listed in ", kSums, ", so that it cannot be verified"));
  }
  ASSIGN_OR_RETURN(const std::string digest, Sha256(file));
  if (digest == found->second) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": its SHA-256 is ", digest,
                                                 ", but ", kSums, " has ", found->second,
                                                 "; the file is damaged, fetch it again"));
}

}  // namespace

absl::Status VerifyChecksums(const fs::path& model, int threads) {
  ASSIGN_OR_RETURN(const std::vector<fs::path> files, FilesOf(model));
  const fs::path directory = IsGgufPath(model) ? model.parent_path() : model;
  ASSIGN_OR_RETURN(const auto sums, ReadSums(directory / kSums));
  std::atomic<size_t> next{0};
  std::mutex mutex;
  absl::Status first_error;
  const auto verify = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      const absl::Status status = Verify(files[i], sums);
      const std::lock_guard lock(mutex);
      first_error.Update(status);
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(verify);
  verify();
  for (std::thread& helper : helpers) helper.join();
  return first_error;
}

}  // namespace trireme
