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
  int64_t bias, silu;

  Plans::Key Key() const {
    return {kind,   batch,        height,       width,  channels,  features,    kernel_height,
            kernel_width, stride, top,          bottom, left,      right,       data_type,
            kernel_type,  bias,   silu};
  }

  int64_t OutHeight() const { return (height + top + bottom - kernel_height) / stride + 1; }
  int64_t OutWidth() const { return (width + left + right - kernel_width) / stride + 1; }
};

inline std::unique_ptr<Plan> MakePlan(const Convolution& c) {
  using tag = memory::format_tag;
  const auto type = static_cast<memory::data_type>(c.data_type);
  const auto kernel_type = static_cast<memory::data_type>(c.kernel_type);
  const memory::dims image{c.batch, c.channels, c.height, c.width};
  const memory::dims kernel{c.features, c.channels, c.kernel_height, c.kernel_width};
  const memory::dims answer{c.batch, c.features, c.OutHeight(), c.OutWidth()};
  const memory::desc x(image, type, tag::nhwc), y(answer, type, tag::nhwc);
  const memory::desc w(kernel, kernel_type, tag::hwio);
  // oneDNN computes with kernels of the images' type, blocked as it likes; but it sums up the
  // kernel's gradient in float32, which is worth keeping where it is asked for.
  const memory::desc any(kernel, type, tag::any), any_gradient(kernel, kernel_type, tag::any);
  const memory::desc b = c.bias ? memory::desc({c.features}, memory::data_type::f32, tag::a)
                                : memory::desc();
  const memory::dims strides{c.stride, c.stride}, first{c.top, c.left}, last{c.bottom, c.right};
  const auto direct = dnnl::algorithm::convolution_direct;

  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::primitive_attr forward_attributes = attributes;
  if (c.silu) {
    dnnl::post_ops after;
    after.append_eltwise(dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
    forward_attributes.set_post_ops(after);
  }
  const auto aim = c.kind == kForward ? dnnl::prop_kind::forward_inference
                                      : dnnl::prop_kind::forward_training;
  const memory::desc no_bias;
  const dnnl::convolution_forward::primitive_desc forward(
      Engine(), aim, direct, x, any, c.kind == kForward ? b : no_bias, y, strides, first, last,
      forward_attributes);
  if (c.kind == kForward) {
    std::vector<Operand> operands;
    operands.emplace_back(DNNL_ARG_SRC, x, forward.src_desc(), false);
    operands.emplace_back(DNNL_ARG_WEIGHTS, w, forward.weights_desc(), false);
    if (c.bias) operands.emplace_back(DNNL_ARG_BIAS, b, forward.bias_desc(), false);
    operands.emplace_back(DNNL_ARG_DST, y, forward.dst_desc(), true);
    return std::make_unique<Plan>(dnnl::convolution_forward(forward), forward.scratchpad_desc(),
                                  forward.impl_info_str(), std::move(operands));
  }
  if (c.kind == kInputGradient) {
    const dnnl::convolution_backward_data::primitive_desc backward(
        Engine(), direct, x, any, y, strides, first, last, forward, attributes);
    std::vector<Operand> operands;
    operands.emplace_back(DNNL_ARG_DIFF_DST, y, backward.diff_dst_desc(), false);
    operands.emplace_back(DNNL_ARG_WEIGHTS, w, backward.weights_desc(), false);
    operands.emplace_back(DNNL_ARG_DIFF_SRC, x, backward.diff_src_desc(), true);
    return std::make_unique<Plan>(dnnl::convolution_backward_data(backward),
                                  backward.scratchpad_desc(), backward.impl_info_str(),
                                  std::move(operands));
  }
  const dnnl::convolution_backward_weights::primitive_desc backward(
      Engine(), direct, x, any_gradient, b, y, strides, first, last, forward, attributes);
  std::vector<Operand> operands;
  operands.emplace_back(DNNL_ARG_SRC, x, backward.src_desc(), false);
  operands.emplace_back(DNNL_ARG_DIFF_DST, y, backward.diff_dst_desc(), false);
  operands.emplace_back(DNNL_ARG_DIFF_WEIGHTS, w, backward.diff_weights_desc(), true);
  if (c.bias) operands.emplace_back(DNNL_ARG_DIFF_BIAS, b, backward.diff_bias_desc(), true);
  return std::make_unique<Plan>(dnnl::convolution_backward_weights(backward),
                                backward.scratchpad_desc(), backward.impl_info_str(),
                                std::move(operands));
}

}  // namespace tpgdiff
