// What happens to the sums of a convolution: scaled, shifted, rectified or compared, and put in their places.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv/conv.h"
#include "parallel.h"

namespace xk {

// The epilogue of a block of channels from output pixel `position` of an image on.
Epilogue epilogue_of(const ConvCall& call, int64_t image, int64_t block, int64_t position);

// The epilogues of a call's blocks of channels.
class Epilogues {
 public:
  explicit Epilogues(const ConvCall& call);

  // Runs task(image, chunk, begin, end) for all chunks of all images and all of `count` items of a chunk, which are
  // blocks of channels or several of them: `together` items a task, or all where bits are written, since blocks share
  // words.
  template <class Task>
  void for_each_chunk(const Chunks& chunks, int64_t count, const Task& task, int64_t together = 1) const {
    if (call_.output.kind == XK_OUT_BITS) together = count;
    const int64_t parts = ceil_div(count, together);
    parallel_for(call_.parallel, call_.shape.batch * chunks.count() * parts, [&](int64_t index) {
      const int64_t image = index / parts / chunks.count(), begin = index % parts * together;
      const Chunk chunk = chunks[index / parts % chunks.count()];
      if (call_.output.kind == XK_OUT_BITS) clear_bits(image, chunk);
      task(image, chunk, begin, std::min(count, begin + together));
    });
  }

  // Scales, compares, transposes and stores the sums of a chunk, [pixel][kLanes], of one block of channels.
  // Overwrites `dots`.
  void store_block(int64_t image, int64_t block, const Chunk& chunk, int32_t* dots) const;

 private:
  void clear_bits(int64_t image, const Chunk& chunk) const;  // store_block() or-s bits

  const ConvCall& call_;
  std::vector<SignLimits> limits_;   // [block], or none where signs are those of floats
  std::vector<Epilogue> epilogues_;  // [block], of the first pixel
};

}  // namespace xk
