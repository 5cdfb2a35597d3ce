#include "coordinator/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "base/status_macros.h"
#include "coordinator/text/jinja/expression_parser.h"

namespace trireme::jinja {
namespace {

constexpr int kStatementDepthMax = 60;

class StatementParser : public ExpressionParser {
 public:
  explicit StatementParser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  absl::StatusOr<Body> Template() {
    ASSIGN_OR_RETURN(Body body, Statements({}));
    return body;
  }

 private:
  using Ends = std::initializer_list<std::string_view>;
  using Made = absl::StatusOr<std::unique_ptr<Stmt>>;

  static std::unique_ptr<Stmt> Make(StmtKind kind, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  // Statements up to a tag that begins with one of `ends`, whose name is not consumed; with no
  // `ends`, up to the end of the template.
  absl::StatusOr<Body> Statements(Ends ends) {
    if (++statement_depth_ > kStatementDepthMax) return Error("blocks are nested too deeply");
    Body body;
    while (Current().kind != TokenKind::kEnd) {
      const Token token = Current();
      Next();
      if (token.kind == TokenKind::kData) {
        body.push_back(Make(StmtKind::kData, token.line));
        body.back()->text = token.text;
      } else if (token.kind == TokenKind::kVariableBegin) {
        body.push_back(Make(StmtKind::kOutput, token.line));
        ASSIGN_OR_RETURN(body.back()->expr, TupleExpression());
        RETURN_IF_ERROR(ExpectKind(TokenKind::kVariableEnd, "}}"));
      } else {
        if (std::any_of(ends.begin(), ends.end(), [&](auto end) { return AtName(end); })) {
          --statement_depth_;
          return body;
        }
        ASSIGN_OR_RETURN(auto stmt, Statement());
        body.push_back(std::move(stmt));
        RETURN_IF_ERROR(ExpectKind(TokenKind::kBlockEnd, "%}"));
      }
    }
    if (ends.size() > 0) return Error(StrCat("expected '", *(ends.end() - 1), "'"));
    --statement_depth_;
    return body;
  }

  // The body after a tag's "%}" up to its end tag, which is consumed up to its own "%}".
  absl::StatusOr<Body> BodyUntil(std::string_view end) {
    RETURN_IF_ERROR(ExpectKind(TokenKind::kBlockEnd, "%}"));
    ASSIGN_OR_RETURN(Body body, Statements({end}));
    Next();
    return body;
  }

  Made Statement() {
    if (Current().kind != TokenKind::kName) return Error("tag name expected");
    const std::string name = Current().text;
    const int line = Current().line;
    Next();
    if (name == "if") return If(line);
    if (name == "for") return For(line);
    if (name == "set") return Set(line);
    if (name == "macro") return Macro(line);
    if (name == "call") return CallBlock(line);
    if (name == "filter") return FilterBlock(line);
    if (name == "with") return With(line);
    if (name == "generation") {
      auto stmt = Make(StmtKind::kBlock, line);
      ASSIGN_OR_RETURN(stmt->body, BodyUntil("endgeneration"));
      return stmt;
    }
    if (name == "break" || name == "continue") {
      if (loop_depth_ == 0) return Error(StrCat("'", name, "' outside loop"));
      return Make(name == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    for (const char* other :
         {"include", "import", "from", "extends", "block", "autoescape", "do"}) {
      if (name == other) return Error(StrCat("unsupported: {% ", name, " %}"));
    }
    return Error(StrCat("unknown tag '", name, "'"));
  }

  Made If(int line) {
    auto stmt = Make(StmtKind::kIf, line);
    while (true) {
      Branch branch;
      ASSIGN_OR_RETURN(branch.test, TupleExpression(/*conditional=*/false));
      RETURN_IF_ERROR(ExpectKind(TokenKind::kBlockEnd, "%}"));
      ASSIGN_OR_RETURN(branch.body, Statements({"elif", "else", "endif"}));
      stmt->branches.push_back(std::move(branch));
      const std::string name = Current().text;
      Next();
      if (name == "elif") continue;
      if (name == "else") {
        Branch last;
        ASSIGN_OR_RETURN(last.body, BodyUntil("endif"));
        stmt->branches.push_back(std::move(last));
      }
      return stmt;
    }
  }

  Made For(int line) {
    auto stmt = Make(StmtKind::kFor, line);
    ASSIGN_OR_RETURN(stmt->target, Target(/*with_namespace=*/false));
    if (!SkipName("in")) return Error("expected 'in'");
    ASSIGN_OR_RETURN(stmt->expr, TupleExpression(/*conditional=*/false));
    if (SkipName("if")) {
      ASSIGN_OR_RETURN(stmt->filter, Expression());
    }
    if (AtName("recursive")) return Error("unsupported: recursive loop");
    RETURN_IF_ERROR(ExpectKind(TokenKind::kBlockEnd, "%}"));
    ++loop_depth_;
    ASSIGN_OR_RETURN(stmt->body, Statements({"else", "endfor"}));
    --loop_depth_;
    const bool has_else = AtName("else");
    Next();
    if (has_else) {
      ASSIGN_OR_RETURN(stmt->other, BodyUntil("endfor"));
    }
    return stmt;
  }

  Made Set(int line) {
    auto stmt = Make(StmtKind::kSet, line);
    ASSIGN_OR_RETURN(stmt->target, Target(/*with_namespace=*/true));
    if (SkipOperator("=")) {
      ASSIGN_OR_RETURN(stmt->expr, TupleExpression());
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    if (AtOperator("|")) {
      ASSIGN_OR_RETURN(stmt->expr, Filters(nullptr));
    }
    ASSIGN_OR_RETURN(stmt->body, BodyUntil("endset"));
    return stmt;
  }

  absl::Status Signature(Stmt& stmt) {
    if (!SkipOperator("(")) return Error("expected '('");
    while (!AtOperator(")")) {
      if (!stmt.parameters.empty() && !SkipOperator(",")) return Error("expected ','");
      if (Current().kind != TokenKind::kName) return Error("expected a parameter's name");
      Parameter parameter;
      parameter.name = Current().text;
      Next();
      if (SkipOperator("=")) {
        ASSIGN_OR_RETURN(parameter.fallback, Expression());
      } else if (!stmt.parameters.empty() && stmt.parameters.back().fallback != nullptr) {
        return Error("non-default argument follows default argument");
      }
      stmt.parameters.push_back(std::move(parameter));
    }
    Next();
    return absl::OkStatus();
  }

  Made Macro(int line) {
    auto stmt = Make(StmtKind::kMacro, line);
    if (Current().kind != TokenKind::kName) return Error("expected a macro's name");
    stmt->text = Current().text;
    Next();
    RETURN_IF_ERROR(Signature(*stmt));
    ASSIGN_OR_RETURN(stmt->body, BodyUntil("endmacro"));
    return stmt;
  }

  Made CallBlock(int line) {
    auto stmt = Make(StmtKind::kCallBlock, line);
    if (AtOperator("(")) RETURN_IF_ERROR(Signature(*stmt));
    ASSIGN_OR_RETURN(stmt->expr, Expression());
    if (stmt->expr->kind != ExprKind::kCall) return Error("expected call");
    ASSIGN_OR_RETURN(stmt->body, BodyUntil("endcall"));
    return stmt;
  }

  Made FilterBlock(int line) {
    auto stmt = Make(StmtKind::kFilterBlock, line);
    ASSIGN_OR_RETURN(stmt->expr, Filters(nullptr, /*first_inline=*/true));
    ASSIGN_OR_RETURN(stmt->body, BodyUntil("endfilter"));
    return stmt;
  }

  Made With(int line) {
    auto stmt = Make(StmtKind::kWith, line);
    while (Current().kind != TokenKind::kBlockEnd) {
      if (!stmt->assignments.empty() && !SkipOperator(",")) return Error("expected ','");
      ASSIGN_OR_RETURN(ExprPtr target, Target(/*with_namespace=*/false));
      if (!SkipOperator("=")) return Error("expected '='");
      ASSIGN_OR_RETURN(ExprPtr value, Expression());
      stmt->assignments.emplace_back(std::move(target), std::move(value));
    }
    ASSIGN_OR_RETURN(stmt->body, BodyUntil("endwith"));
    return stmt;
  }

  int statement_depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

absl::StatusOr<Body> Parse(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  StatementParser parser(std::move(tokens));
  return parser.Template();
}

}  // namespace trireme::jinja
