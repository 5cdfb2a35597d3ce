#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

// How the ranks of a gang come to their shards: flags of trireme-worker, which programs that start
// workers have in the same words, with the same checks, and pass on.
struct ShardFlags {
  std::vector<int64_t> stage_layers;  // --stage-layers; empty: the workers' choice
  std::string placement = "topology";
  std::string load = "slices";
  bool verify_checksum = false;

  // Adds them to `app`, which must not outlive them, under this headline of its help.
  void Define(CLI::App& app, const std::string& group = "Options");
  // What trireme-worker is to be given to have the same.
  std::vector<std::string> Arguments() const;
};

}  // namespace trireme
