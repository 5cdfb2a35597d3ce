#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/text/jinja/ast.h"
#include "coordinator/text/jinja/value.h"

namespace trireme::jinja {

// Renders one template once: walks the tree and writes text. One object for each render; the tree
// is only read. Errors are InvalidArgument and name the line.
class Interpreter {
 public:
  struct Limits {
    size_t steps_max = 5'000'000;          // statements, expressions, items
    size_t bytes_max = size_t{256} << 20;  // of all values ever made, not of those alive
    size_t output_bytes_max = size_t{32} << 20;
  };

  // `now_unix_s`: what strftime_now shows, seconds since 1970.
  Interpreter(const Limits& limits, int64_t now_unix_s);
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;
  ~Interpreter();

  // A variable the template sees.
  void SetVariable(std::string name, Value value);
  absl::StatusOr<std::string> Render(const Body& body);

  // For filters, tests, functions and methods.
  Budget& budget() { return budget_; }
  int64_t now_unix_s() const { return now_unix_s_; }
  Value MakeNamespace(Namespace value);

  // object.name and object[name]: an undefined value if there is none.
  Result GetAttribute(const Value& object, const std::string& name);
  Result GetItem(const Value& object, const Value& key);
  Result Call(const Value& callee, const Arguments& arguments);

 private:
  // The variables of one scope. Scopes live in scopes_, which is a stack but for scopes that a
  // macro may still refer to.
  struct Scope {
    Scope* parent = nullptr;
    std::vector<std::pair<std::string, Value>> variables;
  };
  enum class Flow { kNormal, kBreak, kContinue };
  class ScopeGuard;
  class DepthGuard;

  absl::StatusOr<Flow> Execute(const Body& body);
  absl::StatusOr<Flow> ExecuteOne(const Stmt& stmt);
  absl::StatusOr<Flow> If(const Stmt& stmt);
  absl::StatusOr<Flow> For(const Stmt& stmt);
  absl::Status FilterItems(const Stmt& stmt, Sequence& items);
  absl::StatusOr<Flow> Scoped(const Body& body);
  absl::Status SetBlock(const Stmt& stmt);
  absl::Status With(const Stmt& stmt);
  absl::Status CallBlock(const Stmt& stmt);
  Value MakeMacro(const Stmt& stmt, const std::string& name);
  Result CallMacro(const Stmt& stmt, Scope* defined_in, const Arguments& arguments);
  absl::Status BindParameters(const Stmt& stmt, const Arguments& arguments);
  absl::Status Assign(const Expr& target, Value value);
  absl::Status Emit(std::string_view text);
  // What the body writes, instead of writing it; in a scope of its own.
  absl::StatusOr<std::string> Capture(const Body& body);

  Result Evaluate(const Expr& expr);
  Result EvaluateNode(const Expr& expr);
  Result Name(const Expr& expr);
  Result ListOrTuple(const Expr& expr);
  Result DictLiteral(const Expr& expr);
  Result Slice(const Expr& expr);
  Result CallExpression(const Expr& expr, Value caller);
  Result FilterExpression(const Expr& expr, Value input);
  Result TestExpression(const Expr& expr);
  Result Unary(const Expr& expr);
  Result Concat(const Expr& expr);
  Result Compare(const Expr& expr);
  Result Conditional(const Expr& expr);
  absl::StatusOr<Arguments> EvaluateArguments(const CallArguments& call);

  void Set(const std::string& name, Value value);
  const Value* Find(std::string_view name) const;

  Budget budget_;
  const size_t output_bytes_max_;
  const int64_t now_unix_s_;
  int depth_ = 0;
  std::deque<std::unique_ptr<Scope>> scopes_;
  Scope* scope_ = nullptr;
  size_t macros_made_ = 0;
  std::string* out_ = nullptr;
  // All namespaces made: emptied at the end, since they may refer to one another in a circle.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace trireme::jinja
