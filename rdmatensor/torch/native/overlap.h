// overlap.h: which tensors share memory. The value of a place that is written twice would depend on
// the last writer, so outputs may not overlap; an input that an output overlaps is copied first.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>

#include "errors.h"

namespace rdmatensor {

// The bytes from a tensor's first element to the end of its last one. Strides are never negative.
struct Span {
    uintptr_t from = 0, to = 0;

    explicit Span(const at::Tensor &tensor)
    {
        if (tensor.numel() == 0)
            return;
        uint64_t last = 0;
        for (int64_t dim = 0; dim < tensor.dim(); dim++)
            last += static_cast<uint64_t>(tensor.size(dim) - 1) * static_cast<uint64_t>(tensor.stride(dim));
        from = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
        to = from + (last + 1) * tensor.element_size();
    }
    bool meets(const Span &other) const
    {
        return from < other.to && other.from < to;
    }
};

// A mark for every byte of a range that holds part of an element.
class Marks {
  public:
    Marks(uintptr_t from, uintptr_t to) : from_(from), marks_(to - from)
    {
    }

    // False when an element of the tensor lies where there is a mark already.
    bool add(const at::Tensor &tensor)
    {
        const int64_t dims = tensor.dim();
        const size_t item = tensor.element_size();
        std::vector<int64_t> at(dims);
        for (int64_t index = 0; index < tensor.numel(); index++) {
            uint64_t offset = 0;
            for (int64_t dim = 0; dim < dims; dim++)
                offset += at[dim] * tensor.stride(dim);
            const size_t place = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) + offset * item - from_;
            for (size_t byte = place; byte < place + item; byte++) {
                if (marks_[byte])
                    return false;
                marks_[byte] = true;
            }
            for (int64_t dim = dims - 1; dim >= 0 && ++at[dim] == tensor.size(dim); dim--)
                at[dim] = 0;
        }
        return true;
    }

  private:
    uintptr_t from_;
    std::vector<bool> marks_;
};

// Whether two elements of the tensor share memory, as those of an expanded tensor do.
inline bool overlaps_itself(const at::Tensor &tensor)
{
    if (tensor.is_contiguous() || tensor.is_non_overlapping_and_dense() || tensor.numel() < 2)
        return false;
    std::vector<std::pair<int64_t, int64_t>> dims;
    for (int64_t dim = 0; dim < tensor.dim(); dim++)
        if (tensor.size(dim) > 1)
            dims.emplace_back(tensor.stride(dim), tensor.size(dim));
    std::sort(dims.begin(), dims.end());
    int64_t reach = 0; // from the first element to the last one, over the dimensions so far
    bool apart = true;
    for (const auto &[stride, size] : dims) {
        if (stride == 0)
            return true;
        apart = apart && stride > reach;
        reach += (size - 1) * stride;
    }
    const Span span(tensor);
    return !apart && !Marks(span.from, span.to).add(tensor);
}

// The indices of the first two tensors of a list that share memory, or {-1, -1}. Tensors that
// merely interleave do not share memory.
inline std::pair<int, int> first_overlap(const std::vector<at::Tensor> &tensors)
{
    std::vector<std::pair<Span, int>> spans;
    for (size_t index = 0; index < tensors.size(); index++)
        if (tensors[index].defined() && tensors[index].numel() > 0)
            spans.emplace_back(Span(tensors[index]), static_cast<int>(index));
    std::sort(spans.begin(), spans.end(), [](const auto &left, const auto &right) {
        return left.first.from != right.first.from ? left.first.from < right.first.from : left.second < right.second;
    });
    for (size_t begin = 0; begin < spans.size();) { // a run of spans that meet
        uintptr_t to = spans[begin].first.to;
        size_t end = begin + 1;
        for (; end < spans.size() && spans[end].first.from < to; end++)
            to = std::max(to, spans[end].first.to);
        if (end - begin > 1) {
            Marks marks(spans[begin].first.from, to);
            for (size_t index = begin; index < end; index++) {
                const at::Tensor &tensor = tensors[spans[index].second];
                if (marks.add(tensor))
                    continue;
                for (size_t other = begin; other < index; other++) {
                    Marks pair(spans[begin].first.from, to);
                    if (pair.add(tensors[spans[other].second]) && !pair.add(tensor))
                        return std::minmax(spans[other].second, spans[index].second);
                }
            }
        }
        begin = end;
    }
    return {-1, -1};
}

// Checks that each element of an output has a place of its own.
inline void check_output(const char *call, const at::Tensor &output, const std::string &which = "")
{
    RDMATENSOR_NEEDS(!overlaps_itself(output), call, "several elements of the output", which,
                     " share one place in memory, as those of an expanded tensor do: clone it first");
}

inline std::string at_index(size_t index)
{
    return " at index " + std::to_string(index);
}

inline void check_outputs(const char *call, const std::vector<at::Tensor> &outputs)
{
    for (size_t index = 0; index < outputs.size(); index++)
        check_output(call, outputs[index], at_index(index));
    const auto [one, other] = first_overlap(outputs);
    RDMATENSOR_NEEDS(one < 0, call, "the outputs at index ", std::to_string(one), " and ", std::to_string(other),
                     " share memory");
}

// An input as contiguous memory that no output reaches, so that writing outputs does not change
// data that is still to be sent. An output that is exactly the input (`own`) does no harm where a
// call takes each element before it writes it.
inline at::Tensor apart_from(const at::Tensor &input, const std::vector<at::Tensor> &outputs, const void *own = nullptr)
{
    const at::Tensor memory = input.contiguous();
    if (!memory.is_same(input))
        return memory;
    const Span span(memory);
    for (const auto &output : outputs)
        if (output.defined() && span.meets(Span(output)) &&
            !(own != nullptr && output.const_data_ptr() == own && output.nbytes() == input.nbytes()))
            return memory.clone();
    return memory;
}

} // namespace rdmatensor
