#include "coordinator/text/jinja/interpreter.h"

#include <algorithm>

#include "base/status_macros.h"
#include "coordinator/text/jinja/builtins.h"
#include "coordinator/text/jinja/format.h"
#include "coordinator/text/jinja/lexer.h"

namespace trireme::jinja {
namespace {

constexpr int kDepthMax = 300;  // of nested evaluations, macro calls included

}  // namespace

// A scope for as long as this lives, and longer if a macro was made in it.
class Interpreter::ScopeGuard {
 public:
  ScopeGuard(Interpreter* interpreter, Scope* parent)
      : interpreter_(interpreter),
        saved_(interpreter->scope_),
        macros_before_(interpreter->macros_made_) {
    interpreter->scopes_.push_back(std::make_unique<Scope>());
    interpreter->scopes_.back()->parent = parent;
    interpreter->scope_ = interpreter->scopes_.back().get();
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;
  ~ScopeGuard() {
    interpreter_->scope_ = saved_;
    if (interpreter_->macros_made_ == macros_before_) interpreter_->scopes_.pop_back();
  }

 private:
  Interpreter* interpreter_;
  Scope* saved_;
  size_t macros_before_;
};

class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(int& depth) : depth_(depth) { ++depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;
  ~DepthGuard() { --depth_; }

 private:
  int& depth_;
};

Interpreter::Interpreter(const Limits& limits, int64_t now_unix_s)
    : budget_(limits.steps_max, limits.bytes_max),
      output_bytes_max_(limits.output_bytes_max),
      now_unix_s_(now_unix_s) {
  scopes_.push_back(std::make_unique<Scope>());
  scope_ = scopes_.back().get();
}

Interpreter::~Interpreter() {
  // Values may be nested through namespaces: empty these one by one while all are held.
  for (const auto& space : namespaces_) space->attributes.clear();
}

Value Interpreter::MakeNamespace(Namespace value) {
  namespaces_.push_back(std::make_shared<Namespace>(std::move(value)));
  return Value(namespaces_.back());
}

void Interpreter::SetVariable(std::string name, Value value) { Set(name, std::move(value)); }

void Interpreter::Set(const std::string& name, Value value) {
  for (auto& [other, slot] : scope_->variables) {
    if (other == name) {
      slot = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(name, std::move(value));
}

const Value* Interpreter::Find(std::string_view name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& [other, value] : scope->variables) {
      if (other == name) return &value;
    }
  }
  return nullptr;
}

absl::StatusOr<std::string> Interpreter::Render(const Body& body) {
  std::string out;
  out_ = &out;
  const absl::StatusOr<Flow> flow = Execute(body);
  out_ = nullptr;
  RETURN_IF_ERROR(flow.status());
  return out;
}

absl::Status Interpreter::Emit(std::string_view text) {
  if (out_->size() + text.size() > output_bytes_max_) {
    return absl::InvalidArgumentError("the template writes too much");
  }
  out_->append(text);
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Body& body) {
  for (const auto& stmt : body) {
    const DepthGuard depth(depth_);
    absl::Status status = budget_.Steps();
    if (depth_ > kDepthMax) status = TypeError("recursion is too deep");
    if (!status.ok()) return ErrorAt(stmt->line, std::string(status.message()));
    ASSIGN_OR_RETURN(const Flow flow, ExecuteOne(*stmt));
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteOne(const Stmt& stmt) {
  switch (stmt.kind) {
    case StmtKind::kData:
      RETURN_IF_ERROR(Emit(stmt.text));
      break;
    case StmtKind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.expr));
      const absl::StatusOr<std::string> text = ToString(budget_, value);
      const absl::Status status = text.ok() ? Emit(*text) : text.status();
      if (!status.ok()) return ErrorAt(stmt.line, std::string(status.message()));
      break;
    }
    case StmtKind::kIf:
      return If(stmt);
    case StmtKind::kFor:
      return For(stmt);
    case StmtKind::kSet: {
      ASSIGN_OR_RETURN(Value value, Evaluate(*stmt.expr));
      RETURN_IF_ERROR(Assign(*stmt.target, std::move(value)));
      break;
    }
    case StmtKind::kSetBlock:
      RETURN_IF_ERROR(SetBlock(stmt));
      break;
    case StmtKind::kMacro:
      Set(stmt.text, MakeMacro(stmt, stmt.text));
      break;
    case StmtKind::kCallBlock:
      RETURN_IF_ERROR(CallBlock(stmt));
      break;
    case StmtKind::kFilterBlock: {
      ASSIGN_OR_RETURN(std::string text, Capture(stmt.body));
      ASSIGN_OR_RETURN(const Value value, FilterExpression(*stmt.expr, Value(std::move(text))));
      ASSIGN_OR_RETURN(const std::string shown, ToString(budget_, value));
      RETURN_IF_ERROR(Emit(shown));
      break;
    }
    case StmtKind::kWith:
      RETURN_IF_ERROR(With(stmt));
      break;
    case StmtKind::kBlock: {
      ASSIGN_OR_RETURN(const std::string text, Capture(stmt.body));
      RETURN_IF_ERROR(Emit(text));
      break;
    }
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::If(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches) {
    bool taken = true;
    if (branch.test != nullptr) {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*branch.test));
      taken = value.Truthy();
    }
    if (taken) return Execute(branch.body);
  }
  return Flow::kNormal;
}

absl::Status Interpreter::FilterItems(const Stmt& stmt, Sequence& items) {
  if (stmt.filter == nullptr) return absl::OkStatus();
  const ScopeGuard scope(this, scope_);
  std::vector<Value> kept;
  for (Value& item : items.items) {
    RETURN_IF_ERROR(Assign(*stmt.target, item));
    ASSIGN_OR_RETURN(const Value keep, Evaluate(*stmt.filter));
    if (keep.Truthy()) kept.push_back(std::move(item));
  }
  items.items = std::move(kept);
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::For(const Stmt& stmt) {
  ASSIGN_OR_RETURN(const Value iterable, Evaluate(*stmt.expr));
  absl::StatusOr<std::shared_ptr<Sequence>> iterated = Iterate(budget_, iterable);
  if (!iterated.ok()) return ErrorAt(stmt.line, std::string(iterated.status().message()));
  const std::shared_ptr<Sequence> items = *std::move(iterated);
  RETURN_IF_ERROR(FilterItems(stmt, *items));
  auto loop = std::make_shared<Loop>();
  loop->items = items;
  for (size_t i = 0; i < items->items.size(); ++i) {
    loop->index0 = i;
    const ScopeGuard scope(this, scope_);
    const DepthGuard depth(depth_);
    RETURN_IF_ERROR(budget_.Steps());
    Set("loop", Value(loop));
    RETURN_IF_ERROR(Assign(*stmt.target, items->items[i]));
    const absl::StatusOr<Flow> flow = Execute(stmt.body);
    RETURN_IF_ERROR(flow.status());
    if (*flow == Flow::kBreak) break;
  }
  if (items->items.empty()) return Scoped(stmt.other);
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Scoped(const Body& body) {
  const ScopeGuard scope(this, scope_);
  return Execute(body);
}

absl::StatusOr<std::string> Interpreter::Capture(const Body& body) {
  std::string text;
  std::string* const saved = out_;
  out_ = &text;
  const absl::StatusOr<Flow> flow = Scoped(body);
  out_ = saved;
  RETURN_IF_ERROR(flow.status());
  RETURN_IF_ERROR(budget_.Bytes(text.size()));
  return text;
}

absl::Status Interpreter::SetBlock(const Stmt& stmt) {
  ASSIGN_OR_RETURN(std::string text, Capture(stmt.body));
  Value value(std::move(text));
  if (stmt.expr != nullptr) {
    ASSIGN_OR_RETURN(value, FilterExpression(*stmt.expr, std::move(value)));
  }
  return Assign(*stmt.target, std::move(value));
}

absl::Status Interpreter::With(const Stmt& stmt) {
  std::vector<Value> values;  // evaluated outside of the new scope
  for (const auto& assignment : stmt.assignments) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*assignment.second));
    values.push_back(std::move(value));
  }
  const ScopeGuard scope(this, scope_);
  for (size_t i = 0; i < values.size(); ++i) {
    RETURN_IF_ERROR(Assign(*stmt.assignments[i].first, std::move(values[i])));
  }
  return Execute(stmt.body).status();
}

absl::Status Interpreter::CallBlock(const Stmt& stmt) {
  ASSIGN_OR_RETURN(const Value value, CallExpression(*stmt.expr, MakeMacro(stmt, "caller")));
  ASSIGN_OR_RETURN(const std::string text, ToString(budget_, value));
  return Emit(text);
}

Value Interpreter::MakeMacro(const Stmt& stmt, const std::string& name) {
  ++macros_made_;
  Callable macro;
  macro.name = name;
  macro.call = [&stmt, scope = scope_](Interpreter& interpreter, const Arguments& arguments) {
    return interpreter.CallMacro(stmt, scope, arguments);
  };
  return Value(std::make_shared<const Callable>(std::move(macro)));
}

absl::Status Interpreter::BindParameters(const Stmt& stmt, const Arguments& arguments) {
  const size_t count = stmt.parameters.size();
  const auto is_parameter = [&](const std::string& name) {
    return std::any_of(stmt.parameters.begin(), stmt.parameters.end(),
                       [&](const Parameter& parameter) { return parameter.name == name; });
  };
  // What no parameter takes is only seen through these names.
  Dict kwargs;
  for (const auto& [name, value] : arguments.named) {
    if (name == "caller") {
      Set(name, value);
    } else if (!is_parameter(name)) {
      kwargs.Set(Value(name), value);
    }
  }
  ASSIGN_OR_RETURN(Value named, MakeDict(budget_, std::move(kwargs)));
  Set("kwargs", std::move(named));
  std::vector<Value> rest;
  for (size_t i = count; i < arguments.positional.size(); ++i) {
    rest.push_back(arguments.positional[i]);
  }
  ASSIGN_OR_RETURN(Value varargs, MakeSequence(budget_, std::move(rest), SequenceKind::kTuple));
  Set("varargs", std::move(varargs));
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = stmt.parameters[i];
    const Value* given = arguments.Find(i, parameter.name);
    if (given != nullptr) {
      Set(parameter.name, *given);
    } else if (parameter.fallback != nullptr) {
      ASSIGN_OR_RETURN(Value value, Evaluate(*parameter.fallback));
      Set(parameter.name, std::move(value));
    } else {
      Set(parameter.name,
          Value::MakeUndefined(StrCat("parameter '", parameter.name, "' was not provided")));
    }
  }
  return absl::OkStatus();
}

Result Interpreter::CallMacro(const Stmt& stmt, Scope* defined_in, const Arguments& arguments) {
  const ScopeGuard scope(this, defined_in);
  RETURN_IF_ERROR(BindParameters(stmt, arguments));
  ASSIGN_OR_RETURN(std::string text, Capture(stmt.body));
  return MakeString(budget_, std::move(text));
}

absl::Status Interpreter::Assign(const Expr& target, Value value) {
  if (target.kind == ExprKind::kName) {
    Set(target.text, std::move(value));
    return absl::OkStatus();
  }
  if (target.kind == ExprKind::kNamespace) {
    const Value* object = Find(target.text);
    Namespace* space = object == nullptr ? nullptr : object->AsNamespace();
    if (space == nullptr) {
      return ErrorAt(target.line, "cannot assign attribute on non-namespace object");
    }
    if (target.attribute[0] == '_') {
      return ErrorAt(target.line, "a namespace cannot store names that begin with _");
    }
    space->attributes[target.attribute] = std::move(value);
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<Sequence>> items = Iterate(budget_, value);
  if (!items.ok()) return ErrorAt(target.line, std::string(items.status().message()));
  if ((*items)->items.size() != target.operands.size()) {
    return ErrorAt(target.line, StrCat("cannot unpack ", (*items)->items.size(), " values into ",
                                       target.operands.size()));
  }
  for (size_t i = 0; i < target.operands.size(); ++i) {
    RETURN_IF_ERROR(Assign(*target.operands[i], (*items)->items[i]));
  }
  return absl::OkStatus();
}

}  // namespace trireme::jinja
