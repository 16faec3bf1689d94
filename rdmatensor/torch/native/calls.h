// calls.h: the calls of the core that the operations of a process group are made of. backend.cpp has
// the operations.
#pragma once

#include "life.h"

namespace rdmatensor {

class TeamCalls : public TeamBackend {
  public:
    using TeamBackend::TeamBackend;

  protected:
    static Tensors blocks_of(const at::Tensor &tensor, int size)
    {
        Tensors blocks;
        const at::Tensor flat = tensor.view(-1);
        for (int rank = 0; rank < size; rank++)
            blocks.push_back(flat.narrow(0, rank * (flat.numel() / size), flat.numel() / size));
        return blocks;
    }

    Tensors split_rows(const at::Tensor &tensor, const std::vector<int64_t> &splits) const
    {
        if (splits.empty())
            return blocks_of(tensor, size_);
        Tensors rows;
        int64_t from = 0;
        for (int rank = 0; rank < size_; from += splits[rank++])
            rows.push_back(tensor.narrow(0, from, splits[rank]));
        return rows;
    }

    // Reduces each tensor by itself. Tensors that share memory are reduced as copies: otherwise the
    // second reduction would take sums for inputs.
    WorkPointer reduce_each(OpType type, const char *title, const Tensors &tensors, const c10d::AllreduceOptions &options)
    {
        RDMATENSOR_NEEDS(!tensors.empty(), "all_reduce", "requires a non-empty tensor list");
        std::vector<Reduction> reductions;
        for (size_t index = 0; index < tensors.size(); index++) {
            check_tensor("all_reduce", tensors[index], at_index(index));
            check_output("all_reduce", tensors[index], at_index(index));
            reductions.push_back(reduction_of("all_reduce", options.reduceOp, tensors[index].scalar_type()));
        }
        const bool shared = tensors.size() > 1 && first_overlap(tensors).first >= 0;
        return submit(type, title, tensors, {tensors}, options, [this, tensors, reductions, shared](auto &call) {
            std::vector<Target> targets;
            for (const auto &tensor : tensors)
                targets.emplace_back(tensor, true, shared);
            for (size_t index = 0; index < tensors.size(); index++)
                reduce_one(call, reductions[index], targets[index]);
            for (const auto &target : targets)
                target.put();
        });
    }

    // Several tensors of one rank count like those of several ranks: all of them become the result.
    WorkPointer reduce_together(const Tensors &tensors, const c10d::AllreduceOptions &options)
    {
        for (size_t index = 0; index < tensors.size(); index++) {
            check_alike("all_reduce", tensors[index], tensors[0], index);
            check_output("all_reduce", tensors[index], at_index(index));
        }
        const Reduction reduction = reduction_of("all_reduce", options.reduceOp, tensors[0].scalar_type());
        return submit(OpType::ALLREDUCE, "all_reduce", tensors, {tensors}, options, [this, tensors, reduction](auto &call) {
            Target target(tensors[0], true, true);
            for (size_t index = 1; index < tensors.size(); index++) {
                const at::Tensor more = tensors[index].contiguous();
                const int status = reduce_with_torch(dtype_code(more.scalar_type()), reduction.code, target.bytes(),
                                                     target.bytes(), bytes_of(more), more.numel());
                TORCH_CHECK(status == 0, "rdmatensor all_reduce: this reduction is not there for ", more.scalar_type());
            }
            reduce_one(call, reduction, target);
            for (const auto &tensor : tensors) {
                Writing guard(tensor);
                at::Tensor(tensor).copy_(target.memory);
            }
        });
    }

    void reduce_one(Call &call, const Reduction &reduction, const Target &target)
    {
        at::Tensor input = scale(reduction, target.memory);
        call.about(input, reduction.code, -1);
        call("all_reduce", group_->api()->reduce(group_->team(), &call.call, bytes_of(input), target.bytes(), input.numel()));
        average(reduction, target);
    }

    void average(const Reduction &reduction, const Target &target) const
    {
        if (!reduction.averages)
            return;
        Writing guard(target.memory);
        at::Tensor(target.memory).div_(size_);
    }

    // A contiguous input of a call with a part for each rank. It is a copy when the output shares
    // memory with it, unless the shared memory is exactly this rank's own part.
    at::Tensor apart_but_for_own(const at::Tensor &input, const at::Tensor &output) const
    {
        const bool gathers = output.nbytes() > input.nbytes();
        const at::Tensor &whole = gathers ? output : input, &part = gathers ? input : output;
        const auto *own = static_cast<const uint8_t *>(whole.const_data_ptr()) + rank_ * (whole.nbytes() / size_);
        if (!Span(input).meets(Span(output)) || (whole.is_contiguous() && part.is_contiguous() && part.const_data_ptr() == own))
            return input.contiguous();
        return input.clone(at::MemoryFormat::Contiguous);
    }

    // From each run of `step` tensors in a list, the one at this index.
    static Tensors every(const Tensors &list, size_t index, size_t step)
    {
        Tensors found;
        for (; index < list.size(); index += step)
            found.push_back(list[index]);
        return found;
    }

    static const void *place_of(const at::Tensor &tensor)
    {
        return tensor.defined() ? tensor.const_data_ptr() : nullptr;
    }

    // The start of each rank's part of a contiguous tensor.
    static std::vector<void *> parts_of(void *bytes, size_t size, int count)
    {
        std::vector<void *> parts(count);
        for (int rank = 0; rank < count; rank++)
            parts[rank] = static_cast<uint8_t *>(bytes) + rank * size;
        return parts;
    }

    // `blocks` holds one contiguous block for each rank; this rank's own block may be the output.
    void scatter_reduced(Call &call, const Reduction &op, const at::Tensor &output, const std::vector<void *> &blocks)
    {
        Target target(output, false);
        call.about(output, op.code, -1);
        call("reduce_scatter",
             group_->api()->reduce_scatter(group_->team(), &call.call, blocks.data(), target.bytes(), output.numel()));
        average(op, target);
        target.put();
    }

    // As above, with blocks of several sizes: each block is reduced to its rank.
    void scatter_uneven(Call &call, const Reduction &op, const at::Tensor &output, const Tensors &blocks)
    {
        Target target(output, false);
        for (int root = 0; root < size_; root++) {
            call.about(output, op.code, root);
            void *to = root == rank_ ? target.bytes() : nullptr;
            call("reduce_scatter",
                 group_->api()->reduce(group_->team(), &call.call, bytes_of(blocks[root]), to, blocks[root].numel()));
        }
        average(op, target);
        target.put();
    }

    void gather_all(Call &call, const at::Tensor &input, const Tensors &outputs)
    {
        std::vector<Target> targets;
        std::vector<void *> places;
        for (const auto &output : outputs)
            targets.emplace_back(output, false);
        for (const auto &target : targets)
            places.push_back(target.bytes());
        gather_into(call, apart_from(input, outputs, places[rank_]), places);
        for (const auto &target : targets)
            target.put();
    }

    void gather_into(Call &call, const at::Tensor &source, const std::vector<void *> &places)
    {
        call.about(source, 0, -1);
        call("all_gather",
             group_->api()->gather_all(group_->team(), &call.call, bytes_of(source), places.data(), source.nbytes()));
    }

    // Exchanges a tensor with each rank; an undefined tensor means none.
    void exchange(Call &call, rt_team_exchange_for what, const Tensors &sends, const Tensors &receives, const at::Tensor &like,
                  int root)
    {
        std::vector<rt_team_piece> out(size_), in(size_);
        Tensors sources;
        std::vector<Target> targets;
        std::vector<int> of;
        for (int rank = 0; rank < size_; rank++) {
            if (sends[rank].defined()) {
                sources.push_back(apart_from(sends[rank], receives, rank == rank_ ? place_of(receives[rank]) : nullptr));
                out[rank] = {bytes_of(sources.back()), sources.back().nbytes()};
            }
            if (receives[rank].defined()) {
                targets.emplace_back(receives[rank], false);
                in[rank] = {targets.back().bytes(), targets.back().memory.nbytes()};
            }
        }
        call.about(like, what, root);
        call(what == RT_TEAM_GATHER    ? "gather"
             : what == RT_TEAM_SCATTER ? "scatter"
                                       : "all_to_all",
             group_->api()->exchange(group_->team(), &call.call, out.data(), in.data()));
        for (const auto &target : targets)
            target.put();
    }

    // The sum of all ranks' sparse tensors: exchanges the sizes first, then indices and values.
    at::Tensor sum_sparse(Call &call, const at::Tensor &own)
    {
        at::Tensor mine = at::tensor({own._nnz()}, at::kLong);
        at::Tensor counts = at::empty({size_}, at::kLong);
        gather_all(call, mine, blocks_of(counts, size_));
        const at::Tensor indices = own._indices().contiguous(), values = own._values().contiguous();
        Tensors index_sends(size_, indices), value_sends(size_, values), index_parts, value_parts;
        for (int rank = 0; rank < size_; rank++) {
            const int64_t count = counts[rank].item<int64_t>();
            auto shape = values.sizes().vec();
            shape[0] = count;
            index_parts.push_back(at::empty({indices.size(0), count}, indices.options()));
            value_parts.push_back(at::empty(shape, values.options()));
        }
        exchange(call, RT_TEAM_ALL_TO_ALL, index_sends, index_parts, indices, -1);
        exchange(call, RT_TEAM_ALL_TO_ALL, value_sends, value_parts, values, -1);
        return at::sparse_coo_tensor(at::cat(index_parts, 1), at::cat(value_parts, 0), own.sizes()).coalesce();
    }

    c10::intrusive_ptr<TransferWork> start_send(const at::Tensor &tensor, int peer, uint64_t tag)
    {
        const at::Tensor source = tensor.contiguous();
        auto work = work_of(OpType::SEND, "send", peer, Target(tensor), source);
        const auto go = [&] {
            rt_team_transfer *transfer = nullptr;
            rt_detail detail = {};
            int status = group_->api()->send(group_->team(), static_cast<uint32_t>(peer), tag, dtype_code(tensor.scalar_type()),
                                             bytes_of(source), source.nbytes(), &transfer, &detail);
            work->started(status, transfer, -1, detail);
        };
        go_seen("send", {{tensor}, {{tensor}}, work->getSequencenumber(), peer, true, true}, go);
        return work;
    }

    c10::intrusive_ptr<TransferWork> start_receive(OpType type, const char *title, const at::Tensor &tensor, int peer,
                                                   uint64_t tag)
    {
        check_output("recv", tensor);
        Target target(tensor, false);
        auto work = work_of(type, title, peer, target, at::Tensor());
        const auto go = [&] {
            rt_team_transfer *transfer = nullptr;
            rt_detail detail = {};
            int32_t source = -1;
            int status = group_->api()->receive(group_->team(), peer, tag, dtype_code(tensor.scalar_type()), target.bytes(),
                                                target.memory.nbytes(), &transfer, &source, &detail);
            work->started(status, transfer, source, detail);
        };
        go_seen(title, {{tensor}, {{tensor}}, work->getSequencenumber(), peer, true, true}, go);
        return work;
    }
};

} // namespace rdmatensor
