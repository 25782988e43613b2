// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {Ledger} from "./Ledger.sol";

/// @title The accounts
/// @notice Money in, money out, and the provider's stake. The only room that touches tokens.
abstract contract Accounts is Ledger, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Thaw {
        uint128 amount;
        uint40 thawedAt;
    }

    /// @dev token => account
    mapping(address => mapping(address => Thaw)) private _thaws;

    function deposit(address token, uint256 amount) external nonReentrant {
        _deposit(token, msg.sender, amount);
    }

    function depositFor(address token, address account, uint256 amount) external nonReentrant {
        if (account == address(0)) revert Escrow_ZeroAddress();
        _deposit(token, account, amount);
    }

    function depositWithPermit(
        address token,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        // Whoever saw the permit in the pool may have submitted it first; then the allowance is
        // there and the transfer below is the judge.
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {}
            catch {}
        _deposit(token, msg.sender, amount);
    }

    function depositNative() external payable {
        _credit(address(0), msg.sender, msg.value);
    }

    function withdraw(address token, uint256 amount) external nonReentrant {
        _notZero(amount);
        _takeFree(token, msg.sender, amount);
        emit Withdrawn(token, msg.sender, amount);
        if (token == address(0)) {
            (bool sent,) = msg.sender.call{value: amount}("");
            if (!sent) revert Escrow_NativeTransferFailed(msg.sender, amount);
        } else {
            IERC20(token).safeTransfer(msg.sender, amount);
        }
    }

    function stake(address token, uint256 amount) external {
        _notZero(amount);
        _takeFree(token, msg.sender, amount);
        _addStake(token, msg.sender, amount);
        emit Staked(token, msg.sender, amount);
    }

    function unstake(address token, uint256 amount) external {
        _notZero(amount);
        _takeStake(token, msg.sender, amount);
        Thaw storage thaw = _thaws[token][msg.sender];
        uint128 thawing = thaw.amount + amount.toUint128();
        uint256 thawedAt = block.timestamp + THAW_PERIOD;
        thaw.amount = thawing;
        thaw.thawedAt = uint40(thawedAt);
        emit UnstakeStarted(token, msg.sender, amount, thawing, thawedAt);
    }

    function completeUnstake(address token) external {
        Thaw memory thaw = _thaws[token][msg.sender];
        _notZero(thaw.amount);
        if (block.timestamp < thaw.thawedAt) revert Escrow_StillThawing(thaw.thawedAt);
        delete _thaws[token][msg.sender];
        _addFree(token, msg.sender, thaw.amount);
        emit Unstaked(token, msg.sender, thaw.amount);
    }

    function balance(address token, address account)
        external
        view
        returns (uint256 free, uint256 staked, uint256 thawing, uint256 thawedAt)
    {
        (free, staked) = _balances(token, account);
        Thaw memory thaw = _thaws[token][account];
        return (free, staked, thaw.amount, thaw.thawedAt);
    }

    function _deposit(address token, address account, uint256 amount) private {
        if (token == address(0)) revert Escrow_NativeToken();
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert Escrow_WrongAmountReceived(token, received, amount);
        _credit(token, account, amount);
    }

    function _credit(address token, address account, uint256 amount) private {
        _notZero(amount);
        _addFree(token, account, amount);
        emit Deposited(token, account, msg.sender, amount);
    }
}
