#include "kernels/cuda/linear.h"

#include <algorithm>
#include <climits>
#include <cstddef>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/fp8.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/quant/packed.h"

namespace trireme::cuda {
namespace {

constexpr int64_t kAlignment = 256;

// Hands out parts of a workspace, or counts how much they are.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<std::byte*>(base)) {}
  void* Take(int64_t bytes) {
    void* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

// How x must be rounded for a product; none for float32.
struct Rounding {
  DType to;
  ActivationOrder order;
  bool operator==(const Rounding&) const = default;
};

std::optional<Rounding> RoundingFor(DType dtype, LinearPath path) {
  if (dtype == DType::kF32) return std::nullopt;
  if (dtype == DType::kFp8) return Rounding{.to = dtype, .order = ActivationOrder::kPlain};
  return Rounding{
      .to = dtype == DType::kF16 ? DType::kF16 : DType::kBF16,
      .order = path == LinearPath::kPanels ? ActivationOrder::kPanels : ActivationOrder::kPlain};
}

const LinearTiling& TilingOf(LinearPath path, int64_t tokens) {
  return path == LinearPath::kPanels ? kPanelTilings[PanelTilingFor(tokens)]
                                     : kRowsTilings[RowsTilingFor(tokens)];
}

int SplitsOf(DType dtype, LinearPath path, int64_t tokens, int64_t rows, int64_t cols) {
  if (dtype == DType::kF32) return 1;
  return LinearSplits(TilingOf(path, tokens), rows, cols,
                      path == LinearPath::kPanels ? kPanelStepColumns : kRowsStepColumns);
}

// Behind the rows, of x and of weights.
const float* Fp8ScalesOf(const void* data, int64_t rows, int64_t stride) {
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(data) + rows * stride);
}

// The library must know how many tokens there are, so ranges are not for it.
LinearPath PathOf(DType dtype, const LinearArgs& args) {
  if (args.range_tokens == 0) return ChooseLinearPath(dtype, args.tokens);
  CHECK(dtype != DType::kFp8);  // no mixture of experts is read in fp8
  return IsQuantized(dtype) ? LinearPath::kPanels : LinearPath::kRows;
}

// One call's launches for products whose weights have one type. Several such groups use the
// workspace one after the other.
class Group {
 public:
  Group(const LinearArgs& args, std::span<const LinearProduct> products)
      : args_(args),
        products_(products),
        dtype_(products[0].weight.dtype),
        cols_(products[0].weight.cols),
        ranged_(args.range_tokens > 0),
        path_(PathOf(dtype_, args)),
        tokens_(ranged_ ? args.range_tokens : args.tokens) {}

  std::optional<Rounding> rounding() const { return RoundingFor(dtype_, path_); }
  bool few_tokens() const { return path_ == LinearPath::kRows || path_ == LinearPath::kPanels; }

  // `x` as rounding() says, `counters` all zero.
  absl::Status Run(const void* x, int32_t* counters, Workspace& workspace) const {
    if (few_tokens()) {
      LaunchFew(x, counters, workspace);
      return absl::OkStatus();
    }
    for (const LinearProduct& product : products_) {
      RETURN_IF_ERROR(path_ == LinearPath::kFp8 ? RunFp8(x, product, workspace)
                                                : RunLibrary(x, product, workspace));
    }
    return absl::OkStatus();
  }

  // What Run takes of a workspace.
  void Reserve(Workspace& workspace) const {
    if (few_tokens()) {
      for (const LinearProduct& p : products_) workspace.Take(PartialBytes(p.weight));
      return;
    }
    workspace.Take(kGemmWorkspaceBytes);
    int64_t bytes = 0;
    for (const LinearProduct& p : products_) bytes = std::max(bytes, ChunkBytes(p.weight));
    if (bytes > 0) workspace.Take(bytes);
  }

 private:
  int64_t PartialBytes(const Weight& w) const {
    const int64_t splits = Splits(w);
    return splits == 1 ? 0 : splits * args_.tokens * w.rows * int64_t{sizeof(float)};
  }
  // The experts of a mixture are enough blocks together.
  int Splits(const Weight& w) const {
    return ranged_ ? 1 : SplitsOf(dtype_, path_, tokens_, w.rows, w.cols);
  }
  int64_t ChunkBytes(const Weight& w) const {
    return path_ == LinearPath::kDequantize
               ? DequantizeRows(w.rows, w.cols, args_.dequantize_bytes) * w.cols * 2
               : 0;
  }

  ProductPart PartOf(const LinearProduct& product, int32_t first_block, int32_t* counters,
                     Workspace& workspace) const {
    const Weight& w = product.weight;
    ProductPart part = {.weight = static_cast<const std::byte*>(w.data),
                        .bias = product.bias,
                        .y = product.y,
                        .partials = static_cast<float*>(workspace.Take(PartialBytes(w))),
                        .counters = counters,
                        .token_range = product.token_range,
                        .first_block = first_block,
                        .splits = Splits(w),
                        .rows = static_cast<int32_t>(w.rows),
                        .row_stride = static_cast<int32_t>(w.row_stride),
                        .block_offset = static_cast<int32_t>(w.block_offset),
                        .panel_bytes = 0,
                        .units_at = 0};
    if (path_ == LinearPath::kPanels) {
      const quant::PackedLayout layout(w.dtype, w.rows, w.cols, w.block_offset);
      part.panel_bytes = layout.panel_bytes;
      part.units_at = layout.UnitAt(0);
    }
    return part;
  }

  void LaunchFew(const void* x, int32_t* counters, Workspace& workspace) const {
    const int64_t per_16_bytes = dtype_ == DType::kF32 ? 4 : 8;
    const bool plain_x = dtype_ == DType::kF32;
    ProductsLaunch launch = {
        .args = {.products = {},
                 .x = plain_x ? args_.x : x,
                 .tokens = static_cast<int32_t>(tokens_),
                 .cols = static_cast<int32_t>(cols_),
                 .x_stride = static_cast<int32_t>(plain_x ? cols_ : RoundedStride(cols_))},
        .dtype = dtype_,
        .tiling = path_ == LinearPath::kPanels ? PanelTilingFor(tokens_) : RowsTilingFor(tokens_),
        .blocks = 0,
        .aligned = true,
        .stream = args_.stream};
    const LinearTiling& tiling = TilingOf(path_, tokens_);
    const int64_t block_rows = dtype_ == DType::kF32 ? kF32Rows : tiling.rows();
    const int64_t tiles = (tokens_ + tiling.tokens() - 1) / tiling.tokens();
    int64_t counted = 0;
    for (int i = 0; i < kProductsMax; ++i) {
      ProductPart& part = launch.args.products[i];
      if (i >= static_cast<int>(products_.size())) {
        part.first_block = INT32_MAX;
        continue;
      }
      const Weight& w = products_[i].weight;
      part = PartOf(products_[i], launch.blocks, counters + counted, workspace);
      const int64_t row_blocks = (w.rows + block_rows - 1) / block_rows;
      launch.blocks += static_cast<int32_t>(row_blocks * part.splits);
      if (part.splits > 1) counted += row_blocks * tiles;
      launch.aligned = launch.aligned && w.cols % per_16_bytes == 0 &&
                       w.row_stride % per_16_bytes == 0 &&
                       reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
    }
    CHECK(counted * int64_t{sizeof(int32_t)} <= kLinearCounterBytes);
    if (path_ == LinearPath::kPanels) {
      LaunchQuantProducts(launch);
    } else if (dtype_ == DType::kF32) {
      LaunchF32Products(launch);
    } else {
      LaunchRowsProducts(launch);
    }
  }

  absl::Status RunLibrary(const void* x, const LinearProduct& product, Workspace workspace) const {
    const Weight& w = product.weight;
    GemmArgs gemm = {.type = dtype_ == DType::kF32   ? GemmType::kF32
                             : dtype_ == DType::kF16 ? GemmType::kF16
                                                     : GemmType::kBF16,
                     .tokens = args_.tokens,
                     .rows = w.rows,
                     .cols = w.cols,
                     .x = dtype_ == DType::kF32 ? args_.x : x,
                     .x_stride = dtype_ == DType::kF32 ? w.cols : RoundedStride(w.cols),
                     .weight = w.data,
                     .weight_stride = w.row_stride,
                     .bias = product.bias,
                     .y = product.y,
                     .y_stride = w.rows,
                     .workspace = workspace.Take(kGemmWorkspaceBytes),
                     .stream = args_.stream};
    if (path_ == LinearPath::kLibrary) return args_.gemm->Run(gemm);
    void* chunk = workspace.Take(ChunkBytes(w));
    const int64_t rows = DequantizeRows(w.rows, w.cols, args_.dequantize_bytes);
    gemm.weight = chunk;
    gemm.weight_stride = w.cols;
    for (int64_t row = 0; row < w.rows; row += rows) {
      gemm.rows = std::min(rows, w.rows - row);
      gemm.bias = product.bias == nullptr ? nullptr : product.bias + row;
      gemm.y = product.y + row;
      LaunchDequantize(
          {.weight = w, .row_begin = row, .rows = gemm.rows, .out = chunk, .stream = args_.stream});
      RETURN_IF_ERROR(args_.gemm->Run(gemm));
    }
    return absl::OkStatus();
  }

  absl::Status RunFp8(const void* x, const LinearProduct& product, Workspace workspace) const {
    const Weight& w = product.weight;
    const float* x_scales = Fp8ScalesOf(x, args_.tokens, w.cols);
    const float* weight_scales = Fp8ScalesOf(w.data, w.rows, w.row_stride);
    const bool scaled = args_.gemm->has_fp8_row_scales();
    RETURN_IF_ERROR(args_.gemm->Run({.type = GemmType::kFp8E4M3,
                                     .tokens = args_.tokens,
                                     .rows = w.rows,
                                     .cols = w.cols,
                                     .x = x,
                                     .x_stride = w.cols,
                                     .weight = w.data,
                                     .weight_stride = w.row_stride,
                                     .y = product.y,
                                     .y_stride = w.rows,
                                     .scales = scaled ? Fp8Scales::kRows : Fp8Scales::kTensor,
                                     .x_scales = scaled ? x_scales : nullptr,
                                     .weight_scales = scaled ? weight_scales : nullptr,
                                     .workspace = workspace.Take(kGemmWorkspaceBytes),
                                     .stream = args_.stream}));
    LaunchFinishFp8({.y = product.y,
                     .tokens = args_.tokens,
                     .rows = w.rows,
                     .x_scales = scaled ? nullptr : x_scales,
                     .weight_scales = scaled ? nullptr : weight_scales,
                     .bias = product.bias,
                     .stream = args_.stream});
    return absl::OkStatus();
  }

  const LinearArgs& args_;
  std::span<const LinearProduct> products_;
  DType dtype_;
  int64_t cols_;
  bool ranged_;
  LinearPath path_;
  int64_t tokens_;  // that a product has at most
};

// Products from `begin` on that one launch can take.
size_t GroupEnd(std::span<const LinearProduct> products, size_t begin) {
  size_t end = begin + 1;
  while (end < products.size() && end - begin < kProductsMax &&
         products[end].weight.dtype == products[begin].weight.dtype) {
    ++end;
  }
  return end;
}

// The parts that all groups of a call share.
struct SharedParts {
  int32_t* counters;
  void* rounded;
};
SharedParts TakeShared(Workspace& workspace, int64_t tokens, int64_t cols) {
  SharedParts parts;
  parts.counters = static_cast<int32_t*>(workspace.Take(kLinearCounterBytes));
  parts.rounded = workspace.Take(tokens * RoundedStride(cols) * 2);
  return parts;
}

// fp8 and its scales take less room than two bytes an element.
void Round(const LinearArgs& args, const Rounding& rounding, void* out) {
  const int64_t cols = args.products[0].weight.cols;
  if (rounding.to == DType::kFp8) {
    return LaunchQuantizeFp8({.x = args.x,
                              .tokens = args.tokens,
                              .cols = cols,
                              .out = static_cast<uint8_t*>(out),
                              .scales = const_cast<float*>(Fp8ScalesOf(out, args.tokens, cols)),
                              .stream = args.stream});
  }
  LaunchRoundActivations({.x = args.x,
                          .tokens = args.tokens,
                          .cols = cols,
                          .to = rounding.to,
                          .order = rounding.order,
                          .out = out,
                          .stream = args.stream});
}

void CheckProducts(const LinearArgs& args) {
  CHECK(args.tokens > 0 && args.tokens <= 65535 && !args.products.empty());
  for (const LinearProduct& p : args.products) {
    const Weight& w = p.weight;
    CHECK(w.cols == args.products[0].weight.cols && w.cols <= INT32_MAX && w.rows <= INT32_MAX);
    CHECK((p.token_range != nullptr) == (args.range_tokens > 0));
    CHECK(w.packed == IsQuantized(w.dtype) && (w.packed || w.row_stride >= w.cols));
  }
}

}  // namespace

absl::Status Linear(const LinearArgs& args) {
  CheckProducts(args);
  Workspace workspace(args.workspace);
  const int64_t cols = args.products[0].weight.cols;
  const SharedParts shared = TakeShared(workspace, args.tokens, cols);
  std::optional<Rounding> rounded;
  for (size_t begin = 0; begin < args.products.size();) {
    const size_t end = GroupEnd(args.products, begin);
    const Group group(args, args.products.subspan(begin, end - begin));
    const auto rounding = group.rounding();
    if (rounding && rounding != rounded) Round(args, *rounding, shared.rounded);
    if (rounding) rounded = rounding;
    Workspace own = workspace;
    group.Reserve(own);
    CHECK(own.used() <= args.workspace_bytes);
    own = workspace;
    RETURN_IF_ERROR(group.Run(shared.rounded, shared.counters, own));
    begin = end;
  }
  return absl::OkStatus();
}

int64_t LinearWorkspaceBytes(int64_t tokens, std::span<const Weight> weights,
                             int64_t dequantize_bytes) {
  std::vector<LinearProduct> products;
  for (const Weight& weight : weights) products.push_back({.weight = weight});
  // Within a tiling more tokens need more; from one to the next they may need less.
  std::vector<int64_t> counts = {tokens, kRowsTokensMaxF32, kRowsTokensMax, kPanelsTokensMax};
  for (const LinearTiling& tiling : kPanelTilings) counts.push_back(tiling.tokens());
  for (const LinearTiling& tiling : kRowsTilings) counts.push_back(tiling.tokens());
  int64_t bytes = 0;
  for (const int64_t count : counts) {
    LinearArgs args;
    args.tokens = std::min(count, tokens);
    args.products = products;
    args.dequantize_bytes = dequantize_bytes;
    Workspace workspace(nullptr);
    TakeShared(workspace, args.tokens, products[0].weight.cols);
    for (size_t begin = 0; begin < products.size();) {
      const size_t end = GroupEnd(products, begin);
      Workspace own = workspace;
      Group(args, std::span(products).subspan(begin, end - begin)).Reserve(own);
      bytes = std::max(bytes, own.used());
      begin = end;
    }
  }
  return bytes;
}

}  // namespace trireme::cuda
