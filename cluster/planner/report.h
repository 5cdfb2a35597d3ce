#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cluster/planner/planner.h"

namespace trireme {

// What was planned, as the user named it.
struct PlanSubject {
  std::string model;  // the path
  ModelShape shape;
  std::string weights;  // WeightTypes::description
  ClusterSpec cluster;
  PlanOptions options;
};

// One object: model, cluster, request, layouts (the recommended one first), rejections, launch.
nlohmann::json PlanJson(const PlanSubject& subject, const Plan& plan);

// The same for people: at most `rows` layouts, and rejections with the same reason in one line.
std::string PlanText(const PlanSubject& subject, const Plan& plan, size_t rows);

// How to start a layout, as text that ends with a line feed: the shell's commands, and values of a
// Helm chart. Of a model or device that workers do not compute, why, and no values.
std::string LaunchCommands(const PlanSubject& subject, const LayoutPlan& plan);
std::string HelmValues(const PlanSubject& subject, const LayoutPlan& plan);

}  // namespace trireme
