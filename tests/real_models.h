#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace trireme {

// Where tools/fetch_test_models.sh puts real models and chat templates: $TRIREME_TEST_MODELS, or a
// folder of the user's cache. Tests of them are skipped, with NotFetched(), where they are not.
inline std::filesystem::path RealModelsDir() {
  if (const char* dir = std::getenv("TRIREME_TEST_MODELS")) return dir;
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) {
    return std::filesystem::path(cache) / "trireme/models";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home == nullptr ? "" : home) / ".cache/trireme/models";
}

inline std::string NotFetched(const std::filesystem::path& path) {
  return path.string() + " is not there; tools/fetch_test_models.sh fetches it";
}

}  // namespace trireme
