// What the library refuses.
#include <cstring>
#include <limits>

#include "testing.h"

// Every function must refuse without touching the pointers, which lead nowhere.
void test_bad_arguments() {
  uint64_t* const nowhere = reinterpret_cast<uint64_t*>(64);
  const int64_t huge = int64_t{1} << 39;
  const xk_conv_shape good = square(1, 64, 16, 8, 3, 1, 1, 1, 1);
  std::vector<xk_conv_shape> bad(22, good);
  bad[0].batch = 0, bad[1].batch = -1, bad[2].channels = 0, bad[3].height = 0, bad[4].width = -5;
  bad[5].out_channels = 0, bad[6].kernel_h = 0, bad[7].stride_w = 0, bad[8].dilation_h = 0, bad[9].pad_top = -1;
  bad[10].groups = 0, bad[11].groups = 3, bad[12].kernel_h = 11, bad[13].dilation_w = 6;
  bad[14].batch = bad[14].height = huge, bad[15].channels = std::numeric_limits<int64_t>::max();
  bad[16].kernel_h = bad[16].kernel_w = huge, bad[17].height = bad[17].width = int64_t{1} << 32;
  bad[18].pad_left = bad[18].pad_top = huge, bad[19].dilation_h = std::numeric_limits<int64_t>::max();
  bad[20].stride_h = std::numeric_limits<int64_t>::max(), bad[21].out_channels = huge;
  const xk_output output{nowhere, XK_OUT_FLOAT, XK_NCHW, {}, 1};
  for (size_t i = 0; i < bad.size(); ++i) {
    const std::string name = "bad shape " + std::to_string(i);
    check(xk_conv(&bad[i], nowhere, nowhere, 1 << 20, nullptr, &output, nullptr) == XK_INVALID_ARGUMENT, name);
    check(std::strlen(xk_last_error()) > 10, name + " says why");
  }
  const Problem problem(good, 1);
  std::vector<char> weights = problem.weights("scalar");
  auto refused = [&](const xk_conv_shape& s, size_t bytes, const xk_epilogue* e, const xk_output* o) {
    return xk_conv(&s, nowhere, weights.data(), bytes, e, o, nullptr) == XK_INVALID_ARGUMENT;
  };
  check(refused(good, weights.size() - 8, nullptr, &output), "truncated weights");
  check(refused(good, 10, nullptr, &output), "weights without a header");
  check(refused(square(1, 128, 16, 8, 3, 1, 1, 1, 1), weights.size(), nullptr, &output), "weights of another shape");
  const xk_output no_data{nullptr, XK_OUT_FLOAT, XK_NCHW, {}, 1};
  const xk_output bad_kind{nowhere, 3, XK_NCHW, {}, 1}, bad_layout{nowhere, XK_OUT_FLOAT, 2, {}, 1};
  check(refused(good, weights.size(), nullptr, &no_data), "NULL output");
  check(refused(good, weights.size(), nullptr, &bad_kind), "unknown kind");
  check(refused(good, weights.size(), nullptr, &bad_layout), "unknown layout");
  check(refused(good, weights.size(), nullptr, nullptr), "no output");
  for (int64_t shuffle : {int64_t{-1}, int64_t{3}, int64_t{32}, std::numeric_limits<int64_t>::min()}) {
    const xk_output shuffled{nowhere, XK_OUT_BITS, XK_NHWC, {}, shuffle};
    check(refused(good, weights.size(), nullptr, &shuffled), "16 channels shuffled by " + std::to_string(shuffle));
  }
  const xk_epilogue relu{nullptr, nullptr, nullptr, 1};
  const xk_output integers{nowhere, XK_OUT_INT32, XK_NCHW, {}, 1};
  check(refused(good, weights.size(), &relu, &integers), "int32 with an epilogue");
  for (size_t byte = 0; byte < 64; ++byte) {
    weights[byte] = static_cast<char>(weights[byte] ^ 0x15);
    check(refused(good, weights.size(), nullptr, &output), "header byte " + std::to_string(byte) + " flipped");
    weights[byte] = static_cast<char>(weights[byte] ^ 0x15);
  }
  int64_t height, width;
  check(xk_output_size(&good, nullptr, &width) == XK_INVALID_ARGUMENT, "NULL out_height");
  check(xk_output_size(&good, &height, nullptr) == XK_INVALID_ARGUMENT, "NULL out_width");
  size_t bytes;
  check(xk_weights_size(&good, "sse", &bytes) == XK_UNSUPPORTED, "unknown kernel");
  check(std::strstr(xk_last_error(), "scalar"), "the error names the kernels there are");
  check(xk_weights_pack(&good, "scalar", problem.dense.data(), 5, weights.data(), weights.size()) ==
            XK_INVALID_ARGUMENT, "short dense weights");
  check(xk_pack(nullptr, 0, 1, 1, 1, 1, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, "NULL input");
  check(xk_pack(problem.x.data(), 0, huge, huge, 1, 1, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, "huge input");
  check(xk_pack(problem.x.data(), 0, 1, std::numeric_limits<int64_t>::max(), 1, 1, nullptr, nowhere, nullptr) ==
            XK_INVALID_ARGUMENT, "more channels than any tensor has");
  check(xk_pack(problem.x.data(), 0, 0, 1, 1, 1, nullptr, nowhere, nullptr) == XK_INVALID_ARGUMENT, "empty input");
}
