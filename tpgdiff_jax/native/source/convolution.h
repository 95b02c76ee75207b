// Plans of convolutions and of their two gradients, NHWC with HWIO kernels.
#pragma once

#include "plan.h"

namespace tpgdiff {

enum Kind : int64_t { kForward = 0, kInputGradient = 1, kKernelGradient = 2 };

// What a convolution is made of; every field is an int64, so that it serves as a key.
struct Convolution {
  int64_t kind;
  int64_t batch, height, width, channels, features;
  int64_t kernel_height, kernel_width, stride;
  int64_t top, bottom, left, right;
  int64_t data_type, kernel_type;  // dnnl_data_type_t of images and of the kernel (or its gradient)
  // FORWARD, in this order: add a bias; multiply and add numbers of each image and feature; apply
  // SiLU; add an image.  KERNEL_GRADIENT: whether a bias has a gradient.
  int64_t bias, modulated, silu, residual;

  Plans::Key Key() const {
    return {kind,   batch,        height,       width,  channels,  features,    kernel_height,
            kernel_width, stride, top,          bottom, left,      right,       data_type,
            kernel_type,  bias,   modulated,    silu,   residual};
  }

  int64_t OutHeight() const { return (height + top + bottom - kernel_height) / stride + 1; }
  int64_t OutWidth() const { return (width + left + right - kernel_width) / stride + 1; }
};

// The descriptions that all three kinds of a convolution share.
struct Shapes {
  memory::desc x, y, kernel, bias;
  memory::desc any;  // a kernel of the images' type, blocked as oneDNN likes
  memory::dims strides, first, last;
  dnnl::primitive_attr attributes;

  Shapes(const Convolution& c, int64_t batch) {
    using tag = memory::format_tag;
    const auto type = static_cast<memory::data_type>(c.data_type);
    const auto kernel_type = static_cast<memory::data_type>(c.kernel_type);
    const memory::dims sizes{c.features, c.channels, c.kernel_height, c.kernel_width};
    x = memory::desc({batch, c.channels, c.height, c.width}, type, tag::nhwc);
    y = memory::desc({batch, c.features, c.OutHeight(), c.OutWidth()}, type, tag::nhwc);
    kernel = memory::desc(sizes, kernel_type, tag::hwio);
    any = memory::desc(sizes, type, tag::any);
    if (c.bias) bias = memory::desc({c.features}, memory::data_type::f32, tag::a);
    strides = {c.stride, c.stride};
    first = {c.top, c.left};
    last = {c.bottom, c.right};
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  }
};

constexpr auto kDirect = dnnl::algorithm::convolution_direct;

inline dnnl::convolution_forward::primitive_desc Hint(const Shapes& s) {
  return {Engine(), dnnl::prop_kind::forward_training, kDirect, s.x,    s.any,
          s.y,      s.strides,                         s.first, s.last, s.attributes};
}

inline std::unique_ptr<Plan> ForwardPlan(const Convolution& c) {
  // oneDNN is fast at numbers of each feature, not at numbers of each image and feature.
  const int64_t times = c.modulated ? c.batch : 1;
  Shapes s(c, c.batch / times);
  const memory::desc numbers({1, c.features, 1, 1}, memory::data_type::f32,
                             memory::format_tag::nhwc);
  std::vector<Operand> extra;
  dnnl::post_ops after;
  auto add_binary = [&](dnnl::algorithm what, const memory::desc& other) {
    const int role = DNNL_ARG_ATTR_MULTIPLE_POST_OP(after.len()) | DNNL_ARG_SRC_1;
    after.append_binary(what, other);
    extra.emplace_back(role, other, other, false, true);
  };
  if (c.modulated) {
    add_binary(dnnl::algorithm::binary_mul, numbers);
    add_binary(dnnl::algorithm::binary_add, numbers);
  }
  if (c.silu) after.append_eltwise(dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
  if (c.residual) add_binary(dnnl::algorithm::binary_add, s.y);
  s.attributes.set_post_ops(after);
  const dnnl::convolution_forward::primitive_desc forward(
      Engine(), dnnl::prop_kind::forward_inference, kDirect, s.x, s.any, s.bias, s.y, s.strides,
      s.first, s.last, s.attributes);
  std::vector<Operand> operands;
  operands.emplace_back(DNNL_ARG_SRC, s.x, forward.src_desc(), false, true);
  operands.emplace_back(DNNL_ARG_WEIGHTS, s.kernel, forward.weights_desc(), false);
  if (c.bias) operands.emplace_back(DNNL_ARG_BIAS, s.bias, forward.bias_desc(), false);
  for (Operand& operand : extra) operands.push_back(std::move(operand));
  operands.emplace_back(DNNL_ARG_DST, s.y, forward.dst_desc(), true, true);
  return std::make_unique<Plan>(dnnl::convolution_forward(forward), forward.scratchpad_desc(),
                                forward.impl_info_str(), std::move(operands), times);
}

inline std::unique_ptr<Plan> InputGradientPlan(const Convolution& c) {
  const Shapes s(c, c.batch);
  const dnnl::convolution_backward_data::primitive_desc backward(
      Engine(), kDirect, s.x, s.any, s.y, s.strides, s.first, s.last, Hint(s), s.attributes);
  std::vector<Operand> operands;
  operands.emplace_back(DNNL_ARG_DIFF_DST, s.y, backward.diff_dst_desc(), false);
  operands.emplace_back(DNNL_ARG_WEIGHTS, s.kernel, backward.weights_desc(), false);
  operands.emplace_back(DNNL_ARG_DIFF_SRC, s.x, backward.diff_src_desc(), true);
  return std::make_unique<Plan>(dnnl::convolution_backward_data(backward),
                                backward.scratchpad_desc(), backward.impl_info_str(),
                                std::move(operands));
}

inline std::unique_ptr<Plan> KernelGradientPlan(const Convolution& c) {
  const Shapes s(c, c.batch);
  // Summed up in float32, which is kept where it is asked for.
  const memory::desc any(s.kernel.get_dims(), s.kernel.get_data_type(), memory::format_tag::any);
  const dnnl::convolution_backward_weights::primitive_desc backward(
      Engine(), kDirect, s.x, any, s.bias, s.y, s.strides, s.first, s.last, Hint(s), s.attributes);
  std::vector<Operand> operands;
  operands.emplace_back(DNNL_ARG_SRC, s.x, backward.src_desc(), false);
  operands.emplace_back(DNNL_ARG_DIFF_DST, s.y, backward.diff_dst_desc(), false);
  operands.emplace_back(DNNL_ARG_DIFF_WEIGHTS, s.kernel, backward.diff_weights_desc(), true);
  if (c.bias) operands.emplace_back(DNNL_ARG_DIFF_BIAS, s.bias, backward.diff_bias_desc(), true);
  return std::make_unique<Plan>(dnnl::convolution_backward_weights(backward),
                                backward.scratchpad_desc(), backward.impl_info_str(),
                                std::move(operands));
}

inline std::unique_ptr<Plan> MakePlan(const Convolution& c) {
  if (c.kind == kForward) return ForwardPlan(c);
  return c.kind == kInputGradient ? InputGradientPlan(c) : KernelGradientPlan(c);
}

}  // namespace tpgdiff
