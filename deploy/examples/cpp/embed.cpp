// Embeds texts with a bundle, from C++ with ONNX Runtime alone.
//
//     embed MODEL.onnx [OPERATOR_LIBRARY] < ids
//
// Each input line holds the token ids of one text; each output line is its embedding: the mean of the
// tokens' last hidden states, scaled to length 1, as 1_Pooling and modules.json ask for in most
// sentence encoders. OPERATOR_LIBRARY is EdgePrune's, for bundles with sparse linears.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

namespace {

std::vector<int64_t> numbers(const std::string &line)
{
    std::istringstream words(line);
    std::vector<int64_t> found;
    for (int64_t number; words >> number;)
        found.push_back(number);
    if (!words.eof())
        throw std::runtime_error("a line holds something other than token ids: " + line);
    return found;
}

std::vector<std::string> input_names(Ort::Session &session)
{
    Ort::AllocatorWithDefaultOptions allocator;
    std::vector<std::string> names;
    for (size_t i = 0; i < session.GetInputCount(); ++i)
        names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    return names;
}

std::vector<float> embed(Ort::Session &session, std::vector<int64_t> &ids)
{
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const int64_t shape[] = {1, static_cast<int64_t>(ids.size())};
    std::vector<int64_t> mask(ids.size(), 1), segments(ids.size(), 0);

    const auto names = input_names(session);
    std::vector<const char *> inputs;
    std::vector<Ort::Value> values;
    for (const auto &name : names) {
        auto &data = name == "input_ids" ? ids : name == "attention_mask" ? mask : segments;
        inputs.push_back(name.c_str());
        values.push_back(Ort::Value::CreateTensor<int64_t>(memory, data.data(), data.size(), shape, 2));
    }
    const char *outputs[] = {"last_hidden_state"};
    const auto results = session.Run(
        Ort::RunOptions{}, inputs.data(), values.data(), values.size(), outputs, 1);

    // [1, tokens, width]; no token is padding.
    const size_t width = results[0].GetTensorTypeAndShapeInfo().GetShape().at(2);
    const float *hidden = results[0].GetTensorData<float>();
    std::vector<float> sum(width, 0.0f);
    for (size_t token = 0; token < ids.size(); ++token)
        for (size_t i = 0; i < width; ++i)
            sum[i] += hidden[token * width + i];
    double squares = 0;
    for (float value : sum)
        squares += double(value) * value;
    for (float &value : sum)
        value /= static_cast<float>(std::sqrt(squares));
    return sum;
}

} // namespace

int main(int count, char **words)
try {
    if (count < 2 || count > 3) {
        std::cerr << "usage: embed MODEL.onnx [OPERATOR_LIBRARY] < ids\n";
        return 2;
    }
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "embed");
    Ort::SessionOptions options;
    if (count == 3)
        options.RegisterCustomOpsLibrary(words[2]);
    Ort::Session session(environment, words[1], options);
    for (std::string line; std::getline(std::cin, line);) {
        auto ids = numbers(line);
        if (ids.empty())
            throw std::runtime_error("a line is empty");
        for (float value : embed(session, ids))
            std::printf("%.9g ", value);
        std::printf("\n");
    }
} catch (const std::exception &error) {
    std::cerr << "embed: " << error.what() << '\n';
    return 1;
}
