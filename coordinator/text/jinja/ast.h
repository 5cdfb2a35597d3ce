#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/text/jinja/value.h"

namespace trireme::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<std::unique_ptr<Stmt>>;

enum class ExprKind {
  kConstant,   // constant
  kName,       // text
  kNamespace,  // text.attribute, as the target of an assignment
  kList,       // operands
  kTuple,      // operands
  kDict,       // operands: key, value, key, value, …
  kAttribute,  // operands[0].text
  kItem,       // operands[0][operands[1]]
  kSlice,      // operands[0][operands[1]:operands[2]:operands[3]], each bound may be null
  kCall,       // operands[0](call)
  kFilter,     // operands[0] | text(call); operands[0] is null inside a filter block
  kTest,       // operands[0] is text(call)
  kUnary,      // text: "-", "+", "not"
  kBinary,     // text: "+", "-", "*", "/", "//", "%", "**"
  kAnd,
  kOr,
  kConcat,       // operands joined by ~
  kCompare,      // operands[0] operators[0] operands[1] operators[1] …
  kConditional,  // operands[0] if operands[1] else operands[2], which may be null
};

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;         // *args
  ExprPtr double_star;  // **kwargs
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;  // of the tree below; bounded by the parser
  std::string text;
  std::string attribute;
  Value constant;
  std::vector<ExprPtr> operands;
  std::vector<std::string> operators;
  CallArguments call;
};

enum class StmtKind {
  kData,         // text
  kOutput,       // expr
  kIf,           // branches; the one of `else` has no test
  kFor,          // target, expr, filter, body, other (of else)
  kSet,          // target = expr
  kSetBlock,     // target = body, through expr: filters, may be null
  kMacro,        // text, parameters, body
  kCallBlock,    // expr: a call; parameters, body: its caller
  kFilterBlock,  // expr: filters; body
  kWith,         // assignments, body
  kBlock,        // body, as it is: {% generation %}
  kBreak,
  kContinue,
};

struct Parameter {
  std::string name;
  ExprPtr fallback;  // null: none
};

struct Branch {
  ExprPtr test;
  Body body;
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string text;
  ExprPtr target;
  ExprPtr expr;
  ExprPtr filter;
  std::vector<Branch> branches;
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  std::vector<Parameter> parameters;
  Body body;
  Body other;
};

}  // namespace trireme::jinja
