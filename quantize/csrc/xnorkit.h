/* xnorkit's bit engine: convolutions of +-1 values, one bit a value. Plain C ABI, no dependencies.
 *
 * Bits: 1 is +1 and 0 is -1. An activation is [batch][height][width][words], the channels of a pixel dense
 * in 64-bit words, least significant bit first, the unused bits of the last word zero. A filter is the dense
 * bit string of its [kernel_h][kernel_w][channels / groups] values, least significant bit first, in
 * ceil(bits / 8) bytes: "dense weights" are [out_channels][bytes a filter].
 *
 * Every function that can fail returns 0, or a negative xk_status after which xk_last_error() says why on
 * the same thread. Sizes are checked, with overflow, before any memory is touched. No function keeps a
 * pointer or any state between calls: concurrent calls are safe.
 */
#ifndef XNORKIT_H
#define XNORKIT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define XK_API __declspec(dllexport)
#else
#define XK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum xk_status {
  XK_OK = 0,
  XK_INVALID_ARGUMENT = -1,
  XK_UNSUPPORTED = -2, /* the machine lacks what was asked for */
  XK_OUT_OF_MEMORY = -3
} xk_status;

typedef enum xk_layout { XK_NCHW = 0, XK_NHWC = 1 } xk_layout;

typedef enum xk_output_kind {
  XK_OUT_FLOAT = 0, /* float, after the epilogue */
  XK_OUT_INT32 = 1, /* the bare sums of +-1; the epilogue must be empty */
  XK_OUT_BITS = 2   /* packed activations: the float result compared with a threshold a channel */
} xk_output_kind;

/* A 2-D convolution with zero padding: padded taps contribute nothing. A linear layer of B rows is a 1x1
 * convolution with batch 1, height 1, width B and NHWC floats. */
typedef struct xk_conv_shape {
  int64_t batch, channels, height, width;
  int64_t out_channels, kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t dilation_h, dilation_w;
  int64_t pad_top, pad_left, pad_bottom, pad_right;
  int64_t groups;
} xk_conv_shape;

/* How a value x of channel c becomes a bit: x >= threshold[c], or x <= threshold[c] where flip[c] is not 0
 * (a batch norm with a negative gamma). NULL thresholds are 0, NULL flips none. NaN gives bit 0. */
typedef struct xk_binarize {
  const float* threshold; /* [channels] or NULL */
  const uint8_t* flip;    /* [channels] or NULL */
} xk_binarize;

/* y = relu(sum * scale[c] * input_scale[n][group][pixel] + bias[c]); each part optional. */
typedef struct xk_epilogue {
  const float* scale;       /* [out_channels] or NULL */
  const float* bias;        /* [out_channels] or NULL */
  const float* input_scale; /* [batch][groups][out_height][out_width] or NULL */
  int32_t relu;             /* 0 or 1 */
} xk_epilogue;

typedef struct xk_output {
  void* data;           /* float or int32 [batch][out_channels][oh][ow] (or NHWC), or uint64 bits */
  int32_t kind;         /* xk_output_kind */
  int32_t layout;       /* xk_layout; bits are always NHWC */
  xk_binarize binarize; /* for XK_OUT_BITS */
  /* G: the output's channels are shuffled. With n = out_channels / G, channel a * n + b is written as channel
   * b * G + a; all other arguments still count channels as the convolution does. 0 or 1: none. */
  int64_t shuffle;
} xk_output;

/* Runs task(argument, i) for every i < count, in any order, on any threads, and returns when all are done. */
typedef void (*xk_parallel_for)(void* context, size_t count, void (*task)(void* argument, size_t index),
                                void* argument);
/* Where the threads come from. A NULL xk_parallel (or run) means the calling thread alone. */
typedef struct xk_parallel {
  xk_parallel_for run;
  void* context;
} xk_parallel;

/* An xk_parallel_for over an OpenMP runtime that is already in the process (GOMP_parallel of libgomp or
 * libomp): its own threads, not more of them. `context` is an xk_openmp. */
typedef struct xk_openmp {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
  unsigned threads;
} xk_openmp;
XK_API void xk_openmp_for(void* context, size_t count, void (*task)(void*, size_t), void* argument);

XK_API const char* xk_last_error(void);

/* The kernels this machine can run, the preferred one last. */
XK_API int32_t xk_kernel_count(void);
XK_API const char* xk_kernel_name(int32_t index);
/* The name of the kernel that the last xk_conv of this thread ran, or "". */
XK_API const char* xk_last_kernel(void);

XK_API int32_t xk_output_size(const xk_conv_shape* shape, int64_t* out_height, int64_t* out_width);

/* float [batch][channels][height][width] (or NHWC) to bits, in one pass. */
XK_API int32_t xk_pack(const float* input, int32_t layout, int64_t batch, int64_t channels, int64_t height,
                       int64_t width, const xk_binarize* binarize, uint64_t* bits, const xk_parallel* parallel);

/* Weights in the order a kernel reads them, behind a header that names kernel and shape. `kernel` NULL or ""
 * means the one in the environment variable XNORKIT_KERNEL, else the fastest for the shape. batch, height
 * and width may be 0 where they are not known; they only guide the choice. */
XK_API int32_t xk_weights_size(const xk_conv_shape* shape, const char* kernel, size_t* bytes);
XK_API int32_t xk_weights_pack(const xk_conv_shape* shape, const char* kernel, const uint8_t* dense,
                               size_t dense_bytes, void* weights, size_t bytes);
/* The dense weights that packed weights were made from. */
XK_API int32_t xk_weights_unpack(const xk_conv_shape* shape, const void* weights, size_t weights_bytes, uint8_t* dense,
                                 size_t dense_bytes);
/* The name of the kernel that packed weights are for, or NULL where they are not valid. */
XK_API const char* xk_weights_kernel(const void* weights, size_t bytes);

/* The convolution. `bits` is [batch][height][width][ceil(channels / 64)]. */
XK_API int32_t xk_conv(const xk_conv_shape* shape, const uint64_t* bits, const void* weights, size_t weights_bytes,
                       const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel);

/* xk_pack and xk_conv in one call: floats [batch][channels][height][width] (or NHWC) in. */
XK_API int32_t xk_conv_float(const xk_conv_shape* shape, const float* input, int32_t input_layout,
                             const xk_binarize* binarize, const void* weights, size_t weights_bytes,
                             const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel);

/* A 2-D max pooling. The output's size is what the windows give: rounded down, or up (ceil_mode), so that the last
 * window may reach past the padding. Padded taps take no part; every window has a tap inside the input. */
typedef struct xk_pool_shape {
  int64_t batch, channels, height, width;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t dilation_h, dilation_w;
  int64_t pad_top, pad_left, pad_bottom, pad_right;
  int64_t out_height, out_width;
} xk_pool_shape;

/* The size of the output of xk_max_pool in 64-bit words. */
XK_API int32_t xk_max_pool_size(const xk_pool_shape* shape, size_t* words);
/* The bits of the maxima, from bits [batch][height][width][ceil(channels / 64)] to `output`, [batch][out_height]
 * [out_width][...], which must not overlap. `flip` as in xk_binarize. */
XK_API int32_t xk_max_pool(const xk_pool_shape* shape, const uint64_t* bits, const uint8_t* flip, uint64_t* output,
                           const xk_parallel* parallel);

/* The averages of floats [batch][channels][height][width], to [batch][channels][out_height][out_width]: padding counts as
 * 0, and no window reaches past it. The taps of a window are added row by row, as torch adds them. */
XK_API int32_t xk_average_pool(const xk_pool_shape* shape, const float* input, float* output,
                               const xk_parallel* parallel);
/* The maxima of floats, laid out in the same way, with windows as in xk_max_pool; that of a window with a NaN is a NaN. */
XK_API int32_t xk_max_pool_float(const xk_pool_shape* shape, const float* input, float* output,
                                 const xk_parallel* parallel);

/* Training. Bits are 64 elements a word, in the order of memory, those past the last element zero. */
typedef enum xk_dtype { XK_FLOAT32 = 0, XK_BFLOAT16 = 1 } xk_dtype;

/* The elements of a tensor without gaps in memory: element i belongs to channel i / inner % channels. */
typedef struct xk_elements {
  int64_t count, channels, inner;
  int32_t dtype; /* xk_dtype */
} xk_elements;

/* With d = x - threshold[channel], in float32: values = +1 where d >= 0, else -1; positive: where it is +1; inside:
 * |d| < 1, or |d| <= 1 where closed is not 0. A NULL threshold is 0. values and inside may be NULL: not wanted then. */
XK_API int32_t xk_sign(const xk_elements* elements, const void* x, const float* threshold, int32_t closed, void* values,
                       uint64_t* positive, uint64_t* inside, const xk_parallel* parallel);
/* The values of xk_sign again. */
XK_API int32_t xk_signs(const xk_elements* elements, const uint64_t* positive, void* values,
                        const xk_parallel* parallel);
/* The gradient of xk_sign by the straight-through estimator: that of its values where inside, else 0. `sums`, NULL or
 * [channels]: its sums over a channel; what the threshold gets is their opposite. */
XK_API int32_t xk_pass_inside(const xk_elements* elements, const void* gradient, const uint64_t* inside, void* result,
                              float* sums, const xk_parallel* parallel);
/* The same with the triangle max(0, 2 - 2 |d|) as the derivative of the sign. */
XK_API int32_t xk_pass_triangle(const xk_elements* elements, const void* gradient, const void* x, const float* threshold,
                                void* result, float* sums, const xk_parallel* parallel);

/* Bits of a tensor [batch][channels][pixels] (or [batch][pixels][channels]) in the order of memory to the words of its
 * pixels, [batch][pixels][ceil(channels / 64)], which xk_conv takes. */
XK_API int32_t xk_pixel_words(const uint64_t* bits, int32_t layout, int64_t batch, int64_t channels, int64_t pixels,
                              uint64_t* words, const xk_parallel* parallel);

/* Dense filters, [count][inputs][taps], or [count][taps][inputs] where inputs_last is not 0. */
typedef struct xk_filters {
  int64_t count, inputs, taps;
  int32_t inputs_last;
  int32_t center; /* subtract the mean over the inputs first, where there are several, and clamp to [-1, 1] */
} xk_filters;

/* values = alpha sign(C), alpha = mean |C| of a filter in `scale`, C the weights, centred where asked for. Each filter
 * begins with a word of its own in `positive` (C >= 0) and `inside` (|C| <= 1 before it is clamped). */
XK_API int32_t xk_scaled_sign(const xk_filters* filters, const float* weight, float* values, float* scale,
                              uint64_t* positive, uint64_t* inside, const xk_parallel* parallel);
/* The gradient of the weights from that of the values of xk_scaled_sign, and from the rest of its results. */
XK_API int32_t xk_scaled_sign_gradient(const xk_filters* filters, const float* gradient, const float* scale,
                                       const uint64_t* positive, const uint64_t* inside, float* result,
                                       const xk_parallel* parallel);

/* Filters of +-alpha, alpha a filter's own, as weights that xk_weights_pack takes: `dense`, [count][ceil(inputs * taps /
 * 8)] bytes, and alpha in `scale`. `valid` becomes 0, and the rest is not to be used, where a filter has other values. */
XK_API int32_t xk_filter_signs(const xk_filters* filters, const float* values, uint8_t* dense, float* scale,
                               int32_t* valid, const xk_parallel* parallel);

/* What stored codes stand for: values[row][i] = levels[code i of the row], times scale[row] where it is not NULL. A row of
 * `codes` has ceil(count * bits / 8) bytes, a code `bits` (1 to 8) of its bits, low first; levels has 2^bits values. */
XK_API int32_t xk_levels(const uint8_t* codes, int64_t rows, int64_t count, int32_t bits, const float* levels,
                         const float* scale, float* values, const xk_parallel* parallel);

/* Layers whose inputs and weights have a few even levels: y = (q * w) / divisor * scale[c] + bias[c], rounded each time, of
 * the exact sum of products. q = round((2^input_bits - 1) clamp(x, 0, 1)), or +1 where x >= 0, else -1, with input_bits 0; w
 * = sum_j 2^j t_j of the signs t_j of its weight_bits planes, 1 to 4 as input_bits. `weights` are those that xk_weights_pack
 * makes of the bits of all planes as filters, plane by plane inside a group. totals, [out_channels][kernel_h + 1][kernel_w +
 * 1], are the sums of w over the channels of a filter and over the taps above and left of each. scale has `scales` values, 1
 * or one an output; it may be NULL as bias may: 1, and 0. */
typedef struct xk_level_layer {
  int32_t input_bits, weight_bits;
  const void* weights;
  size_t weights_bytes;
  const int32_t* totals;
  float divisor;
  const float* scale;
  int64_t scales;
  const float* bias;
} xk_level_layer;

/* A convolution: x is [batch][channels][height][width], y [batch][out_channels][out_height][out_width], as `shape` says; its
 * weights are those of the same shape with weight_bits times as many output channels. */
XK_API int32_t xk_level_conv(const xk_conv_shape* shape, const xk_level_layer* layer, const float* x, float* y,
                             const xk_parallel* parallel);
/* A linear layer: x is [rows][inputs], y [rows][outputs]; its weights are those of a convolution of one pixel. */
XK_API int32_t xk_level_linear(int64_t rows, int64_t inputs, int64_t outputs, const xk_level_layer* layer, const float* x,
                               float* y, const xk_parallel* parallel);

/* Linear layers whose input stays float: y[row][o] = sum of x[row][i] over the set bits of filter o, less that over the
 * others, in float. Weights are made of dense ones, [outputs][ceil(inputs / 8)] bytes, for the kernel that XNORKIT_KERNEL
 * names or this machine prefers. */
XK_API int32_t xk_lookup_size(int64_t inputs, int64_t outputs, size_t* bytes);
XK_API int32_t xk_lookup_pack(int64_t inputs, int64_t outputs, const uint8_t* dense, size_t dense_bytes, void* weights,
                              size_t bytes);
XK_API int32_t xk_lookup(int64_t rows, int64_t inputs, int64_t outputs, const float* x, const void* weights,
                         size_t weights_bytes, float* y, const xk_parallel* parallel);

/* Convolutions whose input stays float: y = s scale[c] + bias[c], s the sum of x over the set bits of filter c's window less
 * that over the others; with two `planes` of bits, those of the first plane's filters first, the mean of both sums, so that
 * weights are -1, 0 and 1. x is [batch][channels][height][width], y [batch][out_channels][out_height][out_width]; scale and
 * bias are [out_channels], or NULL: 1, and 0. Weights are made of dense ones for the kernel that XNORKIT_KERNEL names or
 * this machine prefers. */
XK_API int32_t xk_sign_conv_size(const xk_conv_shape* shape, int32_t planes, size_t* bytes);
XK_API int32_t xk_sign_conv_pack(const xk_conv_shape* shape, int32_t planes, const uint8_t* dense, size_t dense_bytes,
                                 void* weights, size_t bytes);
XK_API int32_t xk_sign_conv(const xk_conv_shape* shape, const float* x, const void* weights, size_t weights_bytes,
                            const float* scale, const float* bias, float* y, const xk_parallel* parallel);

/* The places of a transposed convolution's outputs: row r of phase i is row `first` + (r - `skip`) step_h of y, an image of
 * height times width, of (first, skip) in rows[i], step_h of them; columns alike. Each row of y is in one phase. */
typedef struct xk_interleave {
  int64_t height, width, step_h, step_w;
  const int64_t (*rows)[2];
  const int64_t (*columns)[2];
} xk_interleave;

/* A transposed convolution as one convolution of all phases, whose output channels are [step_h][channels of y][step_w], of one
 * group: y is [batch][its channels][height][width]. scale and bias are those of its channels. */
XK_API int32_t xk_sign_conv_transposed(const xk_conv_shape* shape, const xk_interleave* places, const float* x,
                                       const void* weights, size_t weights_bytes, const float* scale, const float* bias,
                                       float* y, const xk_parallel* parallel);
/* 1 where some kernel of this machine permutes 16 floats, else 0: with fewer, a convolution of floats is as fast. So it is
 * with less than 128 channels a group, with less than 512 look-ups of a sum of four channels (taps times filters of a group,
 * over the strides), and with less than 512 products an output. */
XK_API int32_t xk_sign_conv_is_fast(void);

/* Convolutions of 8-bit numbers: q = round(x * inverse) + zero, from 0 to 255, by w from -127 to 127; the sums are those of
 * (q - zero) w, and a padding is 0. `numbers`, [out][kernel_h][kernel_w][channels], are w + 128; x is [batch][channels]
 * [height][width]; a linear layer is of one pixel. Weights are made of them for the kernel that XNORKIT_KERNEL names or
 * this machine prefers. */
XK_API int32_t xk_int8_size(const xk_conv_shape* shape, size_t* bytes);
XK_API int32_t xk_int8_pack(const xk_conv_shape* shape, const uint8_t* numbers, size_t numbers_bytes, int32_t zero,
                            void* weights, size_t bytes);
XK_API int32_t xk_int8_conv(const xk_conv_shape* shape, const float* x, float inverse, const void* weights,
                            size_t weights_bytes, const xk_epilogue* epilogue, const xk_output* output,
                            const xk_parallel* parallel);

/* Convolutions of floats with floats, for a network's first layer: its sums become bits, or what they become, without a
 * way through memory. Products are added one after the other, which their rounding shows: tap by tap, each with all its
 * channels, as oneDNN does where there are few, or, where by_channels is not 0, channel by channel, as a product of matrices
 * does of windows that are unfolded. `values` are [out][kernel_h][kernel_w][channels], x is [batch][channels][height]
 * [width]. */
XK_API int32_t xk_float_size(const xk_conv_shape* shape, size_t* bytes);
XK_API int32_t xk_float_pack(const xk_conv_shape* shape, const float* values, size_t count, int32_t by_channels,
                             void* weights, size_t bytes);
XK_API int32_t xk_float_conv(const xk_conv_shape* shape, const float* x, const void* weights, size_t weights_bytes,
                             const xk_epilogue* epilogue, const xk_output* output, const xk_parallel* parallel);

/* What networks compute between their layers, one float after the other. `operand` has a value for each of the channels of
 * `elements`, in float32; a clamp has the least value and the largest, and an affine map all factors and then all offsets,
 * with one rounding for both. A NaN stays one. y may be x. */
typedef enum xk_pointwise_kind {
  XK_ADD = 0,
  XK_SUBTRACT = 1,
  XK_MULTIPLY = 2,
  XK_PRELU = 3, /* x where it is over 0, else operand * x */
  XK_CLAMP = 4,
  XK_AFFINE = 5 /* a batch norm in evaluation */
} xk_pointwise_kind;
XK_API int32_t xk_pointwise(const xk_elements* elements, int32_t kind, const float* x, const float* operand, float* y,
                            const xk_parallel* parallel);

/* Several calls as one. A written call is one of these functions, which all end in `parallel`, and its arguments before
 * that: whole numbers, floats, and addresses of what has to be there when it is carried out. */
typedef enum xk_function {
  XK_PACK = 0,
  XK_CONV,
  XK_CONV_FLOAT,
  XK_MAX_POOL,
  XK_MAX_POOL_FLOAT,
  XK_AVERAGE_POOL,
  XK_LEVEL_CONV,
  XK_LEVEL_LINEAR,
  XK_LOOKUP,
  XK_SIGN_CONV,
  XK_SIGN_CONV_TRANSPOSED,
  XK_INT8_CONV,
  XK_FLOAT_CONV,
  XK_POINTWISE
} xk_function;
typedef union xk_argument {
  int64_t whole;
  float number;
  const void* pointer;
} xk_argument;
typedef struct xk_written_call {
  int32_t function; /* xk_function */
  xk_argument arguments[8];
} xk_written_call;
/* Carries them out in order, until one fails: its status, and what xk_last_error() says. */
XK_API int32_t xk_run(const xk_written_call* calls, int64_t count, const xk_parallel* parallel);

#ifdef __cplusplus
}
#endif
#endif
