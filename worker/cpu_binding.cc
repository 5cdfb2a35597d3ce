#include "worker/cpu_binding.h"

#include <hwloc.h>
#include <sched.h>

#include <memory>

#include "absl/status/status.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, DestroyTopology>;

absl::StatusOr<Topology> LoadTopology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return absl::InternalError("hwloc_topology_init failed");
  Topology topology(raw);
  if (hwloc_topology_load(raw) != 0) return absl::InternalError("hwloc_topology_load failed");
  return topology;
}

// Of this host, which does not change: it is found out once, which takes a while where there are
// many cores and devices.
absl::StatusOr<hwloc_topology_t> HostTopology() {
  static const absl::StatusOr<Topology> topology = LoadTopology();
  RETURN_IF_ERROR(topology.status());
  return topology->get();
}

// Ours to run on, the first CPU of every core, then the second of every core, and so on.
std::vector<int> AllowedCpus(hwloc_topology_t topology) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return {};
  std::vector<int> cpus;
  const int cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
  for (int sibling = 0, found = 1; found > 0; ++sibling) {
    found = 0;
    for (int core = 0; core < cores; ++core) {
      const hwloc_obj_t object =
          hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, static_cast<unsigned>(core));
      int os_index = hwloc_bitmap_first(object->cpuset);
      for (int i = 0; i < sibling && os_index >= 0; ++i) {
        os_index = hwloc_bitmap_next(object->cpuset, os_index);
      }
      if (os_index < 0) continue;
      ++found;
      if (os_index < CPU_SETSIZE && CPU_ISSET(os_index, &allowed)) cpus.push_back(os_index);
    }
  }
  return cpus;
}

}  // namespace

absl::StatusOr<std::vector<int>> ChooseCpus(int threads, int local_rank, int local_size) {
  ASSIGN_OR_RETURN(const hwloc_topology_t topology, HostTopology());
  const std::vector<int> cpus = AllowedCpus(topology);
  const size_t each = static_cast<size_t>(threads);
  // A launcher that bound each rank to CPUs of its own has divided them already.
  if (cpus.size() == each) return cpus;
  if (cpus.size() != each * static_cast<size_t>(local_size)) return std::vector<int>();
  const auto first = cpus.begin() + local_rank * threads;
  return std::vector<int>(first, first + threads);
}

int NumaNodeOfProcess() {
  const absl::StatusOr<hwloc_topology_t> topology = HostTopology();
  if (!topology.ok()) return -1;
  int node = -1;
  for (const int cpu : AllowedCpus(*topology)) {
    const hwloc_obj_t object = hwloc_get_pu_obj_by_os_index(*topology, static_cast<unsigned>(cpu));
    if (object == nullptr || hwloc_bitmap_weight(object->nodeset) != 1) return -1;
    const int own = hwloc_bitmap_first(object->nodeset);
    if (node != -1 && own != node) return -1;
    node = own;
  }
  return node;
}

}  // namespace trireme
