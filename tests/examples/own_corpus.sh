python jobs/check_setup.py jobs/configs/check_setup.yaml
python jobs/describe_corpus.py /data/mine
python jobs/prepare_corpus.py jobs/configs/prepare/demo.yaml card=datasets/mine.yaml output_dir=runs/stores/mine
python jobs/train_model.py jobs/configs/own_corpus.yaml data.store=runs/stores/mine output_dir=runs/mine
python jobs/evaluate_model.py jobs/configs/evaluate/demo.yaml model=runs/mine data.store=runs/stores/mine
python jobs/predict_clips.py recordings/ model=runs/mine
