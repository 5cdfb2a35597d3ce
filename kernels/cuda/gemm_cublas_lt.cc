#include <cublasLt.h>

#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/gemm.h"

namespace trireme::cuda {
namespace {

absl::Status Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusString(status)));
}

cudaDataType_t DataType(GemmType type) {
  switch (type) {
    case GemmType::kF32:
      return CUDA_R_32F;
    case GemmType::kF16:
      return CUDA_R_16F;
    case GemmType::kBF16:
      return CUDA_R_16BF;
    case GemmType::kFp8E4M3:
      return CUDA_R_8F_E4M3;
  }
  return CUDA_R_32F;
}

const char* TypeName(GemmType type) {
  switch (type) {
    case GemmType::kF32:
      return "float32";
    case GemmType::kF16:
      return "float16";
    case GemmType::kBF16:
      return "bfloat16";
    case GemmType::kFp8E4M3:
      return "fp8";
  }
  return "?";
}

// The largest power of two up to 256 that divides both: alignment is part of which kernels fit.
uint32_t Alignment(const void* pointer, int64_t row_bytes) {
  const auto bits = reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(row_bytes) | 256;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

template <class T, cublasStatus_t (*destroy)(T*)>
struct Destroy {
  using pointer = T*;
  void operator()(T* p) const { destroy(p); }
};
using Operation = std::unique_ptr<
    std::remove_pointer_t<cublasLtMatmulDesc_t>,
    Destroy<std::remove_pointer_t<cublasLtMatmulDesc_t>, cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<
    std::remove_pointer_t<cublasLtMatrixLayout_t>,
    Destroy<std::remove_pointer_t<cublasLtMatrixLayout_t>, cublasLtMatrixLayoutDestroy>>;
using Preference = std::unique_ptr<
    std::remove_pointer_t<cublasLtMatmulPreference_t>,
    Destroy<std::remove_pointer_t<cublasLtMatmulPreference_t>, cublasLtMatmulPreferenceDestroy>>;

// Everything that a shape's launches share. cuBLASLt's matrices are column-major, so ours are their
// transposes: D [rows, tokens] = A^T B with A = the weights and B = x.
struct Plan {
  Operation operation;
  Layout weight;
  Layout x;
  Layout y;
  cublasLtMatmulAlgo_t algorithm;
};

using PlanKey = std::tuple<GemmType, Fp8Scales, int64_t, int64_t, int64_t, int64_t, int64_t,
                           int64_t, bool, uint32_t, uint32_t, uint32_t>;

PlanKey KeyOf(const GemmArgs& a) {
  const int64_t element = a.type == GemmType::kF32 ? 4 : a.type == GemmType::kFp8E4M3 ? 1 : 2;
  return {a.type,
          a.scales,
          a.tokens,
          a.rows,
          a.cols,
          a.x_stride,
          a.weight_stride,
          a.y_stride,
          a.bias != nullptr,
          Alignment(a.x, a.x_stride * element),
          Alignment(a.weight, a.weight_stride * element),
          Alignment(a.y, a.y_stride * 4)};
}

absl::StatusOr<Layout> MakeLayout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  RETURN_IF_ERROR(Check(cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows),
                                                   static_cast<uint64_t>(cols), stride),
                        "cublasLtMatrixLayoutCreate"));
  return Layout(layout);
}

template <class T>
absl::Status Set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  return Check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)),
               "cublasLtMatmulDescSetAttribute");
}

// Pointers differ from call to call.
absl::Status SetPointers(const Operation& operation, const GemmArgs& a) {
  if (a.bias != nullptr) {
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.bias));
  }
  if (a.type == GemmType::kFp8E4M3) {
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, a.weight_scales));
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.x_scales));
  }
  return absl::OkStatus();
}

absl::StatusOr<Operation> MakeOperation(const GemmArgs& a) {
  cublasLtMatmulDesc_t description = nullptr;
  RETURN_IF_ERROR(Check(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                        "cublasLtMatmulDescCreate"));
  Operation operation(description);
  RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
  RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N));
  if (a.bias != nullptr) {
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS));
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F));
  }
  if (a.type == GemmType::kFp8E4M3 && a.scales == Fp8Scales::kRows) {
    constexpr cublasLtMatmulMatrixScale_t kMode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, kMode));
    RETURN_IF_ERROR(Set(operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, kMode));
  }
  RETURN_IF_ERROR(SetPointers(operation, a));
  return operation;
}

absl::StatusOr<Preference> MakePreference(const PlanKey& key) {
  cublasLtMatmulPreference_t made = nullptr;
  RETURN_IF_ERROR(Check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate"));
  Preference preference(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    return Check(
        cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
  };
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kGemmWorkspaceBytes}));
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::get<10>(key)));
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::get<9>(key)));
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::get<11>(key)));
  RETURN_IF_ERROR(set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::get<11>(key)));
  return preference;
}

class CublasLtGemm : public Gemm {
 public:
  explicit CublasLtGemm(cublasLtHandle_t handle) : handle_(handle) {}
  ~CublasLtGemm() override {
    plans_.clear();
    cublasLtDestroy(handle_);
  }

  // Asks for products of few and of many tokens.
  void FindFp8() {
    static constexpr float kScale = 1.0f;  // whose address is looked at, and not more
    const auto has = [&](Fp8Scales scales) {
      for (const int64_t tokens : {1, 16, 1024}) {
        const GemmArgs args = {.type = GemmType::kFp8E4M3,
                               .tokens = tokens,
                               .rows = 1024,
                               .cols = 1024,
                               .x_stride = 1024,
                               .weight_stride = 1024,
                               .y_stride = 1024,
                               .scales = scales,
                               .x_scales = &kScale,
                               .weight_scales = &kScale};
        if (!Find(args).ok()) return false;
      }
      return true;
    };
    has_fp8_ = has(Fp8Scales::kTensor);
    has_fp8_row_scales_ = has_fp8_ && has(Fp8Scales::kRows);
    plans_.clear();
  }

  bool has_fp8() const override { return has_fp8_; }
  bool has_fp8_row_scales() const override { return has_fp8_row_scales_; }

  absl::Status Run(const GemmArgs& a) override {
    RETURN_IF_ERROR(CheckGemm(a));
    ASSIGN_OR_RETURN(const Plan* plan, Find(a));
    RETURN_IF_ERROR(SetPointers(plan->operation, a));
    const float one = 1.0f;
    const float zero = 0.0f;
    return Check(cublasLtMatmul(handle_, plan->operation.get(), &one, a.weight, plan->weight.get(),
                                a.x, plan->x.get(), &zero, a.y, plan->y.get(), a.y, plan->y.get(),
                                &plan->algorithm, a.workspace, kGemmWorkspaceBytes, a.stream),
                 "cublasLtMatmul");
  }

 private:
  absl::StatusOr<const Plan*> Find(const GemmArgs& a) {
    const PlanKey key = KeyOf(a);
    if (const auto it = plans_.find(key); it != plans_.end()) return &it->second;
    Plan plan;
    ASSIGN_OR_RETURN(plan.operation, MakeOperation(a));
    const cudaDataType_t type = DataType(a.type);
    ASSIGN_OR_RETURN(plan.weight, MakeLayout(type, a.cols, a.rows, a.weight_stride));
    ASSIGN_OR_RETURN(plan.x, MakeLayout(type, a.cols, a.tokens, a.x_stride));
    ASSIGN_OR_RETURN(plan.y, MakeLayout(CUDA_R_32F, a.rows, a.tokens, a.y_stride));
    ASSIGN_OR_RETURN(const Preference preference, MakePreference(key));
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan.operation.get(), plan.weight.get(), plan.x.get(), plan.y.get(), plan.y.get(),
        preference.get(), 1, &found, &count);
    if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
      return absl::UnimplementedError(absl::StrCat(
          "unsupported: cuBLASLt has no ", TypeName(a.type), " product of ", a.tokens, " x ",
          a.rows, " x ", a.cols, " for this GPU (", cublasLtGetStatusString(status),
          a.type == GemmType::kFp8E4M3 ? "); fp8 needs compute capability 8.9, and scales for "
                                         "each row 9.0. Use bfloat16"
                                       : ")"));
    }
    plan.algorithm = found.algo;
    return &plans_.emplace(key, std::move(plan)).first->second;
  }

  cublasLtHandle_t handle_;
  bool has_fp8_ = false;
  bool has_fp8_row_scales_ = false;
  std::map<PlanKey, Plan> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gemm>> Gemm::Create() {
  cublasLtHandle_t handle = nullptr;
  RETURN_IF_ERROR(
      Check(cublasLtCreate(&handle), "cublasLtCreate: no usable GPU, or too little memory on it"));
  auto gemm = std::make_unique<CublasLtGemm>(handle);
  gemm->FindFp8();
  return gemm;
}

}  // namespace trireme::cuda
