// Classifies an image with a binary network, in C++ and without Python: an ONNX file, onnxruntime, and the library
// that brings xnorkit's kernels into it.
//
//   classify MODEL.onnx IMAGE.ppm [LIBRARY]
//
// The file is one of the trainer's export: its metadata name the classes and say how pixels are normalized. IMAGE is
// a binary PPM or, for networks of grey images, a PGM, of the network's own size. LIBRARY is what
// quantize.custom_ops_library() names; without it onnxruntime computes the same in standard operators, slower.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Image {
  int64_t channels, height, width;
  std::vector<unsigned char> pixels;  // [height][width][channels]
};

int64_t header_number(std::istream& file) {
  std::string word;
  while (file >> word && word[0] == '#') std::getline(file, word);
  return std::stoll(word);
}

Image read_image(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  file >> magic;
  if (magic != "P5" && magic != "P6") throw std::runtime_error(path + " is not a binary PGM or PPM image");
  Image image{};
  image.channels = magic == "P6" ? 3 : 1;
  image.width = header_number(file);
  image.height = header_number(file);
  if (image.width < 1 || image.height < 1 || image.width > 65536 || image.height > 65536 || header_number(file) != 255)
    throw std::runtime_error(path + " is not an image of 8 bits a value");
  file.get();  // the one space before the pixels
  image.pixels.resize(static_cast<size_t>(image.channels * image.height * image.width));
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size())))
    throw std::runtime_error(path + " ends in the middle of its pixels");
  return image;
}

std::string metadata(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::AllocatedStringPtr text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
  if (!text) throw std::runtime_error(std::string("the model has no metadata ") + key + "; export it with the trainer");
  return text.get();
}

// What matches in a text of JSON: all its numbers, or all its strings.
std::vector<std::string> all_matches(const std::string& json, const char* pattern) {
  const std::regex expression(pattern);
  std::vector<std::string> found;
  for (std::sregex_iterator match(json.begin(), json.end(), expression), end; match != end; ++match)
    found.push_back((*match)[1]);
  return found;
}

std::vector<float> numbers(const std::string& json) {
  std::vector<float> values;
  for (const std::string& text : all_matches(json, "(-?[0-9][-+.0-9eE]*)")) values.push_back(std::stof(text));
  return values;
}

// [channel][height][width], as (pixel / 255 - mean) / std.
std::vector<float> normalized(const Image& image, const std::vector<float>& mean_and_std) {
  const size_t channels = static_cast<size_t>(image.channels), plane = image.pixels.size() / channels;
  if (mean_and_std.size() != 2 * channels) throw std::runtime_error("the image has not the model's channels");
  std::vector<float> input(image.pixels.size());
  for (size_t i = 0; i < input.size(); ++i) {
    const size_t c = i / plane;
    const float value = static_cast<float>(image.pixels[i % plane * channels + c]) / 255.0f;
    input[i] = (value - mean_and_std[c]) / mean_and_std[channels + c];
  }
  return input;
}

void classify(const char* model, const char* image_path, const char* library) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "classify");
  Ort::SessionOptions options;
  if (library) options.RegisterCustomOpsLibrary(library);
  Ort::Session session(env, model, options);

  const Image image = read_image(image_path);
  const std::vector<float> size = numbers(metadata(session, "input_size"));
  if (size != std::vector<float>{float(image.channels), float(image.height), float(image.width)})
    throw std::runtime_error("the image is not of the model's input_size " + metadata(session, "input_size"));
  std::vector<float> input = normalized(image, numbers(metadata(session, "input_normalization")));

  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::AllocatedStringPtr input_name = session.GetInputNameAllocated(0, allocator);
  const Ort::AllocatedStringPtr output_name = session.GetOutputNameAllocated(0, allocator);
  const char *inputs[] = {input_name.get()}, *outputs[] = {output_name.get()};
  const int64_t shape[] = {1, image.channels, image.height, image.width};
  const auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const Ort::Value x = Ort::Value::CreateTensor<float>(cpu, input.data(), input.size(), shape, 4);
  const std::vector<Ort::Value> results = session.Run(Ort::RunOptions{nullptr}, inputs, &x, 1, outputs, 1);

  const float* logits = results[0].GetTensorData<float>();
  const size_t count = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const std::vector<std::string> classes = all_matches(metadata(session, "classes"), "\"([^\"]*)\"");
  if (count == 0 || classes.size() != count) throw std::runtime_error("the model has not as many outputs as classes");
  const size_t best = static_cast<size_t>(std::max_element(logits, logits + count) - logits);
  double sum = 0;  // of the softmax
  for (size_t i = 0; i < count; ++i) sum += std::exp(static_cast<double>(logits[i]) - logits[best]);
  std::printf("%s %.1f%%\n", classes[best].c_str(), 100 / sum);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3 && count != 4) {
    std::fprintf(stderr, "usage: %s MODEL.onnx IMAGE.ppm [LIBRARY]\n", arguments[0]);
    return 2;
  }
  try {
    classify(arguments[1], arguments[2], count == 4 ? arguments[3] : nullptr);
  } catch (const std::exception& error) {  // Ort::Exception too
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
