// SPDX-License-Identifier: Apache-2.0
// A layer in one direction, its arguments checked, that waits to be computed: alone or beside another one.
#include "call.h"

#include <algorithm>

#include "../engine/parallel.h"
#include "bindings.h"
#include "unlocked.h"

namespace pyrnn {
namespace {

// Whether the threads had better take a call each than all of them one call after the other.
bool side_by_side(const std::vector<Call*>& calls, bool chain, int threads) {
  if (threads < 2 || calls.size() < 2) return false;
  double longest = 0, in_turn = 0, lag = 0;
  for (std::size_t i = 1; chain && i < calls.size(); i++) {
    if (!calls[i]->may_follow(*calls[i - 1])) return false;
    lag += calls[i]->lag();
  }
  for (const Call* call : calls) {
    const double alone = call->cycles(1);
    if (alone == 0) return false;
    longest = std::max(longest, alone);
    in_turn += call->cycles(threads);
  }
  const double rounds = double((int(calls.size()) + threads - 1) / threads);
  const double worth = chain ? 0.9 : 1;  // its threads fetch what the other has just written
  return (rounds + lag) * longest + start_cycles() < worth * in_turn;
}

}  // namespace

void compute(const std::vector<Call*>& calls, bool chain) {
  const int threads = num_threads();
  const bool beside = side_by_side(calls, chain, threads);
  for (Call* call : calls) call->allocate(beside ? 1 : threads);
  if (!beside) {
    for (Call* call : calls)
      if (!stopped()) call->compute(threads);
    return;
  }
  for (std::size_t i = 1; chain && i < calls.size(); i++) calls[i]->follow(*calls[i - 1]);
  Team team(std::min(threads, int(calls.size())));
  team.run(
      [](void* context, int thread, int team) {
        const auto& calls = *static_cast<const std::vector<Call*>*>(context);
        for (std::size_t i = std::size_t(thread); i < calls.size() && !stopped(); i += std::size_t(team))
          calls[i]->compute(1);
        stopped();  // a question that a call's own threads answered is for the others too
      },
      const_cast<std::vector<Call*>*>(&calls));
}

pybind11::object computed(std::unique_ptr<Call> call) {
  without_lock([&] {
    call->plan();
    compute({call.get()});
  });
  return call->result();
}

pybind11::list computed(const pybind11::function& prepare, const pybind11::list& calls, bool chain) {
  std::vector<pybind11::object> made;
  std::vector<Call*> prepared;
  for (const pybind11::handle one : calls) {
    const auto [arguments, keywords] = one.cast<std::pair<pybind11::args, pybind11::kwargs>>();
    made.push_back(prepare(*arguments, **keywords));
    prepared.push_back(made.back().cast<Call*>());
    without_lock([&] { prepared.back()->plan(); });
  }
  without_lock([&] { compute(prepared, chain); });
  pybind11::list results;
  for (Call* call : prepared) results.append(call->result());
  return results;
}

}  // namespace pyrnn
