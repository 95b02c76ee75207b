// What Python and XLA see of this library: two XLA custom calls and two questions.

#include <unordered_map>

#include "convolution.h"
#include "product.h"
#include "worker.h"
#include "xla/ffi/api/ffi.h"

namespace tpgdiff {
namespace {

namespace ffi = xla::ffi;

int64_t TypeOf(const ffi::AnyBuffer& buffer) {
  switch (buffer.element_type()) {
    case ffi::DataType::F32:
      return dnnl_f32;
    case ffi::DataType::BF16:
      return dnnl_bf16;
    default:
      throw std::invalid_argument("neither float32 nor bfloat16");
  }
}

// Collect the buffers of a call: arguments, then results.
std::vector<ffi::AnyBuffer> Buffers(ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  std::vector<ffi::AnyBuffer> buffers;
  for (size_t i = 0; i < arguments.size(); ++i) {
    buffers.push_back(arguments.get<ffi::AnyBuffer>(i).value());
  }
  for (size_t i = 0; i < results.size(); ++i) {
    buffers.push_back(*results.get<ffi::AnyBuffer>(i).value());
  }
  return buffers;
}

template <typename Problem>
ffi::Error Execute(const Problem& problem, const std::vector<ffi::AnyBuffer>& buffers) {
  std::vector<void*> data;
  for (const ffi::AnyBuffer& buffer : buffers) data.push_back(buffer.untyped_data());
  Worker::Get().Run([&] {
    Plans::All().Get(problem.Key(), [&] { return MakePlan(problem); }).Execute(data);
  });
  return ffi::Error::Success();
}

template <typename Call>
ffi::Error Guarded(const char* what, Call call) {
  try {
    return call();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN, ") + what + ": " + error.what());
  }
}

// kind 0: (x, kernel[, bias][, factor, summand][, residual]) -> y
// kind 1: (dy, kernel) -> dx
// kind 2: (x, dy) -> (dkernel[, dbias])
ffi::Error RunConvolution(ffi::RemainingArgs arguments, ffi::RemainingRets results, int64_t kind,
                          int64_t stride, ffi::Span<const int64_t> padding, bool bias,
                          bool modulated, bool silu, bool residual) {
  return Guarded("convolution", [&] {
    const std::vector<ffi::AnyBuffer> buffers = Buffers(arguments, results);
    const ffi::AnyBuffer& kernel = buffers[kind == kKernelGradient ? 2 : 1];
    const ffi::AnyBuffer& image = buffers[kind == kInputGradient ? 2 : 0];
    const auto x = image.dimensions(), w = kernel.dimensions();
    const Convolution problem{
        kind,       x[0],       x[1],       x[2],       w[2],           w[3],
        w[0],       w[1],       stride,     padding[0], padding[1],     padding[2],
        padding[3], TypeOf(image), TypeOf(kernel), bias,           modulated, silu, residual};
    return Execute(problem, buffers);
  });
}

// (x [..., K], matrix[, bias]) -> x matrix, or (x [..., K], dy [..., N]) -> x^T dy [K, N]; many:
// all with one more axis before
ffi::Error RunProduct(ffi::RemainingArgs arguments, ffi::RemainingRets results, bool gradient,
                      bool transposed, bool many) {
  return Guarded("product", [&] {
    const std::vector<ffi::AnyBuffer> buffers = Buffers(arguments, results);
    const ffi::AnyBuffer &a = buffers[0], &b = buffers[1], &result = buffers.back();
    const int64_t last = a.dimensions().back(), count = many ? a.dimensions().front() : 1;
    const int64_t others = a.element_count() / last / count;
    const Product problem{count, gradient ? last : others, gradient ? others : last,
                          result.dimensions().back(), gradient, transposed,
                          TypeOf(a), TypeOf(b), TypeOf(result), buffers.size() == 4};
    return Execute(problem, buffers);
  });
}

// Write the name of oneDNN's implementation, or why there is none.
template <typename Problem>
bool Describe(const int64_t* fields, char* text, size_t size) {
  std::string answer;
  bool found = false;
  try {
    Problem problem;
    std::copy(fields, fields + sizeof(Problem) / sizeof(int64_t),
              reinterpret_cast<int64_t*>(&problem));
    Worker::Get().Run([&] {
      answer = Plans::All().Get(problem.Key(), [&] { return MakePlan(problem); }).implementation;
    });
    found = true;
  } catch (const std::exception& error) {
    answer = error.what();
  }
  text[answer.copy(text, size - 1)] = '\0';
  return found;
}

}  // namespace
}  // namespace tpgdiff

XLA_FFI_DEFINE_HANDLER_SYMBOL(TpgdiffConvolution, tpgdiff::RunConvolution,
                              xla::ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("kind")
                                  .Attr<int64_t>("stride")
                                  .Attr<xla::ffi::Span<const int64_t>>("padding")
                                  .Attr<bool>("bias")
                                  .Attr<bool>("modulated")
                                  .Attr<bool>("silu")
                                  .Attr<bool>("residual"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(TpgdiffProduct, tpgdiff::RunProduct,
                              xla::ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("gradient")
                                  .Attr<bool>("transposed")
                                  .Attr<bool>("many"));

extern "C" int TpgdiffDescribeConvolution(const int64_t* fields, char* text, size_t size) {
  return tpgdiff::Describe<tpgdiff::Convolution>(fields, text, size);
}

extern "C" int TpgdiffDescribeProduct(const int64_t* fields, char* text, size_t size) {
  return tpgdiff::Describe<tpgdiff::Product>(fields, text, size);
}
