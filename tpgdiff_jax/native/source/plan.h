// Plans: oneDNN primitives for one shape each, with all that a call of them needs.
//
// Everything here runs on the worker's thread alone (worker.h).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace tpgdiff {

using dnnl::memory;

inline dnnl::engine& Engine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

inline dnnl::stream& Stream() {
  static dnnl::stream* stream = new dnnl::stream(Engine());
  return *stream;
}

// Memory that grows to the largest size asked for and is then kept: all plans share it in turn.
class Arena {
 public:
  void* Get(size_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = (size + 4095) / 4096 * 4096;
      data_ = std::aligned_alloc(4096, size_);
      if (data_ == nullptr) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// One operand of a plan: how XLA lays it out, how oneDNN wants it, and the way between.
struct Operand {
  int role;  // DNNL_ARG_...
  memory given, wanted;
  dnnl::reorder way;  // empty where both are the same
  bool is_result;
  size_t step;  // bytes to the next image's part, for plans that run image by image

  Operand(int role, const memory::desc& have, const memory::desc& want, bool is_result,
          bool has_images = false)
      : role(role),
        given(have, Engine(), nullptr),
        wanted(want, Engine(), nullptr),
        is_result(is_result),
        step(has_images ? have.get_size() : 0) {
    if (have != want) {
      way = is_result ? dnnl::reorder(wanted, given) : dnnl::reorder(given, wanted);
    }
  }

  bool IsStaged() const { return bool(way); }
};

class Plan {
 public:
  Plan(const dnnl::primitive& primitive, const memory::desc& scratch, const char* implementation,
       std::vector<Operand> operands, int64_t times = 1)
      : implementation(implementation),
        times_(times),
        primitive_(primitive),
        scratch_(scratch, Engine(), nullptr),
        operands_(std::move(operands)) {}

  // Run on buffers in the order of the operands.
  void Execute(const std::vector<void*>& buffers) {
    static auto* scratch = new Arena();
    std::unordered_map<int, memory> arguments;
    scratch_.set_data_handle(scratch->Get(scratch_.get_desc().get_size()));
    arguments[DNNL_ARG_SCRATCHPAD] = scratch_;
    for (int64_t time = 0; time < times_; ++time) {
      for (size_t i = 0; i < operands_.size(); ++i) {
        if (time == 0 || operands_[i].step > 0) {
          Prepare(i, static_cast<char*>(buffers[i]) + time * operands_[i].step, &arguments);
        }
      }
      primitive_.execute(Stream(), arguments);
      for (Operand& operand : operands_) {
        if (operand.is_result && operand.IsStaged()) {
          operand.way.execute(Stream(), operand.wanted, operand.given);
        }
      }
    }
    Stream().wait();
  }

  const std::string implementation;

 private:
  void Prepare(size_t index, void* data, std::unordered_map<int, memory>* arguments) {
    static auto* staging = new std::map<size_t, Arena>();
    Operand& operand = operands_[index];
    operand.given.set_data_handle(data);
    if (operand.IsStaged()) {
      const size_t size = operand.wanted.get_desc().get_size();
      operand.wanted.set_data_handle((*staging)[index].Get(size));
      if (!operand.is_result) operand.way.execute(Stream(), operand.given, operand.wanted);
    }
    (*arguments)[operand.role] = operand.IsStaged() ? operand.wanted : operand.given;
  }

  int64_t times_;
  dnnl::primitive primitive_;
  memory scratch_;
  std::vector<Operand> operands_;
};

// The plans used last, by what they were made for.
class Plans {
 public:
  using Key = std::vector<int64_t>;

  template <typename Make>
  Plan& Get(const Key& key, Make make) {
    auto found = places_.find(key);
    if (found != places_.end()) {
      order_.splice(order_.begin(), order_, found->second);
    } else {
      order_.emplace_front(key, make());
      places_[key] = order_.begin();
      if (order_.size() > kMost) {
        places_.erase(order_.back().first);
        order_.pop_back();
      }
    }
    return *order_.front().second;
  }

  static Plans& All() {
    static auto* plans = new Plans();
    return *plans;
  }

 private:
  // A large network has about 150 shapes; a service that sees many picture sizes must not grow.
  static constexpr size_t kMost = 1024;
  std::list<std::pair<Key, std::unique_ptr<Plan>>> order_;
  std::map<Key, decltype(order_)::iterator> places_;
};

}  // namespace tpgdiff
